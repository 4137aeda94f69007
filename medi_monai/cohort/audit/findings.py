"""Findings of a cohort audit, written as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medi_monai.cohort.tables.spelling import look_alike_note
from medi_monai.results import LEVELS, Finding
from medi_monai.utils.text import plural

__all__ = ["find", "has_leakage"]

#: bias-corrected Cramér's V: from ``STRONG`` on, an attribute is a strong shortcut; below ``WEAK``, the lower end of
#: the interval means that nothing is reported
STRONG, WEAK = 0.3, 0.1
#: minimum share of patients with values that occur in a single class, for the attribute to determine the class
DECISIVE_SHARE = 0.9
#: share of rows without a value, and difference between classes in the share of patients without one, from which
#: missing data are a warning
MISSING_SHARE, MISSING_SPREAD = 0.2, 0.5
#: properties of files that are one finding if both differ
SIZES = ("width", "height")


def has_leakage(audit: dict) -> bool:
    """Return whether any patient, slide, image, file or near-duplicate occurs in more than one split."""
    return any(finding["level"] == "leakage" for finding in audit["findings"])


def find(audit: dict) -> list[Finding]:
    """Return the findings of an audit, most serious first, each with its name and counts."""
    checks = (
        *(_patients, _leaks, _conflicts, _shortcuts, _properties, _compression),
        *(_missing, _values, _holdouts, _cells),
    )
    findings = [finding for check in checks for finding in check(audit)]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def _finding(level: str, name: str, text: str, **figures: Any) -> Finding:
    return Finding(level, text, figures, name)


def _patients(audit: dict) -> Iterator[Finding]:
    unit = audit["patients_named_by"]
    if unit:
        text = (
            f"Each {unit} counts as a patient of its own. Unless there really is one {unit} per patient, patients are "
            "unknown: leakage of patients cannot be checked, and images of one patient may be in several splits."
        )
        yield _finding("warning", "patients_unknown", text, patients=audit["splits"]["all"]["patients"])


def _values(audit: dict) -> Iterator[Finding]:
    for column, groups in audit["look_alikes"].items():
        note = look_alike_note(column, groups)
        yield _finding("warning", "values_look_alike", note, column=column, groups=len(groups))
    for column, values in audit["not_numbers"].items():
        if values:
            text = (
                f"{column} is a number, but {plural(len(values), 'value')} cannot be read as one and "
                f"{'counts' if len(values) == 1 else 'count'} as missing: {_shown(values)}."
            )
            yield _finding("warning", "values_not_numbers", text, column=column, values=len(values))


def _leaks(audit: dict) -> Iterator[Finding]:
    if audit["leakage"] is None:
        yield _finding("note", "no_split", "The table has no split, so leakage was not checked.")
        return
    sides = _listed([name for name in audit["splits"] if name not in ("all", "excluded")])
    for name in ("patient", "slide", "image"):
        leak = audit["leakage"].get(f"{name}s")
        if leak and leak["count"]:
            text = (
                f"{plural(leak['count'], name)} {_are(leak['count'])} in more than one of {sides}, for example "
                f"{leak['examples'][0][name]!r}. All rows of {_a(name)} must be in the same split."
            )
            yield _finding("leakage", f"{name}s_cross_split", text, **{f"{name}s": leak["count"], "rows": leak["rows"]})
    files = audit["leakage"].get("files")
    if files and files["count"]:
        text = (
            f"{plural(files['count'], 'byte-identical file')} {_are(files['count'])} in more than one of {sides} under "
            f"different names, for example {_files(files)}."
        )
        yield _finding("leakage", "files_cross_split", text, files=files["count"], rows=files["rows"])
    yield from _near_duplicates(audit, sides)
    unknown = audit["missing"]["split"]["rows"]
    if unknown:
        yield _finding(
            "warning",
            "rows_without_split",
            f"{plural(unknown, 'row')} {'has' if unknown == 1 else 'have'} no split.",
            rows=unknown,
        )


def _near_duplicates(audit: dict, sides: str) -> Iterator[Finding]:
    leak, bits_apart = audit["leakage"].get("near_duplicates"), audit.get("bits_apart")
    if leak is None:
        text = "Near-duplicate patches were not checked."
        if bits_apart is not None:
            text += (
                f" Image hashes of different patients differ in only {bits_apart:.0f} of 64 bits on average (32 "
                "expected by chance), so the images are too similar for near-duplicates to be identified."
            )
        yield _finding("note", "near_duplicates_not_checked", text)
        return
    if leak["count"]:
        example = leak["examples"][0]
        ends = " and ".join(repr(example[end].get("image", example[end]["slide"])) for end in ("first", "second"))
        text = (
            f"{plural(leak['rows'], 'patch', 'patches')} {_are(leak['rows'])} nearly identical to a patch in another "
            f"split ({plural(leak['count'], 'pair')} across {sides}, with hashes that differ in at most "
            f"{leak['max_distance']} of 64 bits), for example {ends}."
        )
        yield _finding("leakage", "near_duplicates_cross_split", text, pairs=leak["count"], rows=leak["rows"])
    if leak["plain_rows"]:
        text = (
            f"{plural(leak['plain_rows'], 'patch', 'patches')} without tissue could not be checked for near-duplicates."
        )
        yield _finding("note", "plain_patches", text, rows=leak["plain_rows"])


def _conflicts(audit: dict) -> Iterator[Finding]:
    repeated = ((audit["leakage"] or {}).get("images") or {}).get("repeated", {"count": 0})
    if repeated["count"]:
        text = (
            f"{plural(repeated['count'], 'image')} {_are(repeated['count'])} listed more than once, for example "
            f"{repeated['examples'][0]!r}."
        )
        yield _finding("warning", "images_repeated", text, images=repeated["count"])
    shared = audit["conflicts"]["slides_of_several_patients"]
    if shared["count"]:
        text = (
            f"{plural(shared['count'], 'slide')} {_are(shared['count'])} listed under more than one patient, for "
            f"example {shared['examples'][0]!r}: two slides share a name, or a patient is wrong."
        )
        yield _finding("warning", "slides_of_several_patients", text, slides=shared["count"])
    files = audit["conflicts"].get("identical_files")
    if files and files["count"]:
        counts = {name: files[f"of_several_{name}"] for name in ("patients", "labels")}
        text = (
            f"{plural(files['count'], 'byte-identical file')} {_are(files['count'])} listed under more than one slide: "
            f"{counts['patients']:,} with more than one patient, {counts['labels']:,} with more than one value of "
            f"{audit['label']}; for example {_files(files)}."
        )
        yield _finding("warning", "identical_files", text, files=files["count"], **counts)
    for column, several in audit["conflicts"]["patients_with_several_values"].items():
        if several["count"]:
            text = (
                f"{plural(several['count'], 'patient')} with more than one value of {column}, for example "
                f"{several['examples'][0]!r}."
            )
            yield _finding("note", "patients_with_several_values", text, column=column, patients=several["count"])


def _shortcuts(audit: dict) -> Iterator[Finding]:
    label, split = audit["label"], "train" if "train" in audit["splits"] else "all"
    for attribute, section in audit["attributes"].items():
        single = section["classes_per_value"]["single_class"]
        if single["values"] and section["num_classes"] > 1:
            decisive = single["share_of_patients"] >= DECISIVE_SHARE and single["with_several_patients"] > 0
            verbs = ("occurs", "it covers") if single["values"] == 1 else ("occur", "they cover")
            values = "value" if single["of"] == 1 else "values"
            text = (
                f"{single['values']:,} of {single['of']:,} {values} of {attribute} {verbs[0]} in only one {label}; "
                f"{verbs[1]} {_percent(single['share_of_patients'])} of patients. "
                + (f"{attribute} determines {label}." if decisive else "")
            )
            name = "attribute_decides_class" if decisive else "values_of_one_class"
            counts = {"attribute": attribute, "values": single["values"], "of": single["of"]}
            yield _finding("warning" if decisive else "note", name, text.strip(), **counts)
        figures = section["association"].get(split) or section["association"]["all"]
        level = _strength(figures)
        if level:
            where = "In the training split" if split == "train" else "Over all patients"
            strength = "strongly" if figures["cramers_v"]["value"] >= STRONG else "moderately"
            text = f"{where}, {attribute} and {label} are {strength} associated: {_rule(figures, attribute, label)}."
            counts = {"cramers_v": figures["cramers_v"]["value"], "patients": figures["n"]}
            yield _finding(level, "shortcut", text, attribute=attribute, **counts)


def _strength(figures: dict) -> str | None:
    figure, rule = figures["cramers_v"], figures["majority_rule"]
    if figure["value"] is None or figure["ci95"][0] < WEAK:
        return None
    # if guessing from the attribute is worse than always guessing the most common class, it reveals nothing
    useful = rule["accuracy"] is None or rule["accuracy"] >= rule["largest_class"]
    return "warning" if figure["value"] >= STRONG and useful else "note"


def _rule(figures: dict, known: str, guessed: str) -> str:
    rule, figure = figures["majority_rule"], figures["cramers_v"]
    text = f"Cramér's V {figure['value']:.2f} (95% CI {figure['ci95'][0]:.2f} to {figure['ci95'][1]:.2f})"
    if rule["balanced_accuracy"] <= rule["chance"]:
        # with few patients, ties count as wrong guesses: a low accuracy does not show that the attribute is harmless
        return text
    return (
        f"{text}. Guessing {guessed} from {known} alone is correct for {rule['accuracy']:.0%} of patients (most common "
        f"{guessed}: {rule['largest_class']:.0%}), with a balanced accuracy of {rule['balanced_accuracy']:.0%} "
        f"(chance {_percent(rule['chance'])})"
    )


def _properties(audit: dict) -> Iterator[Finding]:
    strong: dict[str, dict[str, dict]] = {}
    for entry in audit["properties"]:
        for target, figures in entry["targets"].items():
            if _strength(figures) == "warning":
                strong.setdefault(target, {})[entry["property"]] = figures
    for target, by_name in strong.items():
        for name, figures in by_name.items():
            pair = {size: by_name[size] for size in SIZES} if set(SIZES) <= set(by_name) and name in SIZES else {}
            if pair and name != SIZES[0]:
                continue
            known = name
            if pair:
                # of the larger association; both have the same where all images are square
                known, figures = max(pair.items(), key=lambda item: item[1]["cramers_v"]["value"])
                known = "either" if pair[SIZES[0]] == pair[SIZES[1]] else known
            subject = f"properties {' and '.join(SIZES)} are" if pair else f"property {name} is"
            text = f"The file {subject} associated with {target}: {_rule(figures, known, target)}."
            counts = {"property": " and ".join(pair or [name]), "target": target}
            yield _finding("warning", "property_differs", text, **counts, cramers_v=figures["cramers_v"]["value"])


def _compression(audit: dict) -> Iterator[Finding]:
    for attribute, groups in ((audit.get("compression") or {}).get("by") or {}).items():
        # an example of each scheme: the first value most of whose images have it
        schemes = {max(group["schemes"], key=group["schemes"].get): group["value"] for group in reversed(groups)}
        medians = {group["value"]: group["quality"]["median"] for group in groups if group["quality"]}
        differences = []
        if len(schemes) > 1:
            differences.append(_listed([f"{scheme} ({value})" for scheme, value in sorted(schemes.items())]))
        if len(set(medians.values())) > 1:
            low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
            differences.append(f"median JPEG quality {medians[low]:g} ({low}) to {medians[high]:g} ({high})")
        if differences:
            text = (
                f"The compression of the source images differs by {attribute}: {'; '.join(differences)}. A classifier "
                "may use it as a shortcut, and distances to generated images, which are not compressed, depend on it."
            )
            counts = {"attribute": attribute, "schemes": len(schemes), "values": len(groups)}
            yield _finding("note", "compression_differs", text, **counts)


def _missing(audit: dict) -> Iterator[Finding]:
    patients = audit["splits"]["all"]["patients"]
    rows = audit["splits"]["all"]["rows"]
    for column, missing in audit["missing"].items():
        if not missing["rows"] or column == "split":
            continue
        shares = missing["by_class"].values()
        spread = max(shares) - min(shares) if shares else 0.0
        share = missing["rows"] / rows
        text = f"{column} is missing in {plural(missing['rows'], 'row')} ({_percent(share)})"
        if missing["patients"]:
            text += f", from {missing['patients']:,} of {plural(patients, 'patient')}"
        if shares:
            text += f"; by class, in {_percent(min(shares))} to {_percent(max(shares))} of patients"
        grave = share >= MISSING_SHARE or spread >= MISSING_SPREAD or column in ("patient", "slide", audit["label"])
        level = "warning" if grave else "note"
        if column == "patient":
            text += "; leakage of these patients cannot be checked"
        yield _finding(level, "missing_values", f"{text}.", column=column, rows=missing["rows"])


def _holdouts(audit: dict) -> Iterator[Finding]:
    section = audit["combinations"] or {}
    for split in (name for name in section if name not in ("columns", "train", "excluded")):
        held = section[split]
        columns = " × ".join(section["columns"])
        text = (
            f"The split {split} has {plural(held['combinations'], 'combination')} of {columns}: "
            f"{held['unseen_in_train']:,} not in train ({plural(held['rows_unseen'], 'row')}) and "
            f"{held['seen_in_train']:,} in train ({plural(held['rows_seen'], 'row')})."
        )
        counts = {name: held[f"{name}_in_train"] for name in ("seen", "unseen")}
        yield _finding("note", "combinations_of_split", text, split=split, **counts)
        for column, values in held["values_unseen_in_train"].items():
            if values:
                text = f"{plural(len(values), 'value')} of {column} in {split} but not in train: {_shown(values)}."
                level = "warning" if column == audit["label"] else "note"
                yield _finding(level, "values_unseen_in_train", text, split=split, column=column, values=len(values))


def _cells(audit: dict) -> Iterator[Finding]:
    for attribute, section in audit["attributes"].items():
        rare, empty = section["rare_cells"]["count"], section["empty_cells"]
        if rare or empty:
            text = (
                f"Of {plural(section['num_cells'], 'combination')} of {audit['label']} and {attribute}, {empty:,} have "
                f"no patients and {rare:,} have fewer than {audit['settings']['min_patients']}."
            )
            counts = {"empty": empty, "rare": rare, "of": section["num_cells"]}
            yield _finding("note", "sparse_cells", text, attribute=attribute, **counts)


def _percent(share: float) -> str:
    return "under 1%" if 0 < share < 0.01 else f"{share:.0%}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _files(copies: dict) -> str:
    first = copies["examples"][0]
    return _listed([repr(slide) for slide in first["slides"]])


def _shown(values: list[str], most: int = 5) -> str:
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(map(repr, values[:most])) + more
