"""The page of a cohort audit: findings, association of class and attributes, counts, leakage, missing metadata."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medi_monai.report.blocks.compression import add_compression
from medi_monai.report.grids import label_cells, write_in_cells
from medi_monai.report.page import Page
from medi_monai.report.sections import add_findings, side_by_side
from medi_monai.report.words import number, short
from medi_monai.results import Finding, typed
from medi_monai.utils.errors import InputError
from medi_monai.utils.text import are_intervals, in_order, plural

__all__ = ["association_bars", "count_heat_map", "held_out_cells", "patients_table", "write_audit_page"]

#: maximum numbers of rows and columns of a heat map; the page says if smaller classes and values are omitted
MOST_ROWS, MOST_COLUMNS = 40, 40
CELL_INCHES = 0.27
THUMBNAIL = 160
HELD_OUT = "#d1495b"


def write_audit_page(
    audit: dict,
    path: str | os.PathLike,
    thumbnails: Callable[[str], np.ndarray] | None = None,
    title: str = "Cohort audit",
) -> Path:
    """Write the page of an audit.

    Args:
        audit: result of :func:`~medi_monai.cohort.audit.audit_cohort`, or the content of ``audit.json``.
        path: file to write.
        thumbnails: function that reads an image by its name in the cohort, ``(H, W, 3)`` uint8, to show
            near-duplicates; images that cannot be read are omitted. None to show no images.
        title: heading of the page.

    Returns:
        ``path``.
    """
    sizes = audit["splits"]["all"]
    page = Page(title, f"{plural(sizes['rows'], 'row')}, {plural(sizes['slides'], 'slide')}, and "
                       f"{plural(sizes['patients'], 'patient')} in "
                       f"{plural(sizes['classes'], 'class', 'classes')} of {audit['label']}.")  # fmt: skip
    _add_answer(page, audit)
    page.glossary()
    add_findings(page, [typed(Finding, finding) for finding in audit["findings"]])
    page.section("Splits").table(pd.DataFrame(audit["splits"]).T.rename_axis("split"))
    _add_leakage(page, audit, thumbnails)
    if audit["attributes"]:
        _add_association(page, audit)
    for name, section in audit["attributes"].items():
        _add_attribute(page, audit, name, section)
    _add_combinations(page, audit)
    _add_metadata(page, audit)
    add_compression(page, audit)
    return page.write(path)


def _add_answer(page: Page, audit: dict) -> None:
    leaks = [finding for finding in audit["findings"] if finding["level"] == "leakage"]
    num_warnings = sum(finding["level"] == "warning" for finding in audit["findings"])
    level = "error" if leaks else "note" if audit["leakage"] is None else "warning" if num_warnings else "ok"
    sentences = [_leakage_sentence(audit, bool(leaks)), *_association_sentence(audit)]
    counted = "1 warning: see Findings." if num_warnings == 1 else f"{num_warnings} warnings: see Findings."
    sentences.append(counted if num_warnings else "No warnings.")
    page.answer(sentences, level)
    if audit["attributes"]:
        page.figure(
            association_bars(audit),
            f"Association of attributes with {audit['label']} among training patients (all patients where there is no "
            "split), with 95% confidence intervals. Right: accuracy of guessing the class from the attribute alone.",
        )


def _leakage_sentence(audit: dict, leaks: bool) -> str:
    if audit["leakage"] is None:
        return "Leakage was not checked, because the table has no split."
    if leaks:
        return "Leakage: the same patients or images are in more than one split."
    unknown = [finding["text"] for finding in audit["findings"] if finding["name"] == "patients_unknown"]
    checked = ["slide"] if unknown else ["patient", "slide"]
    checked += ["image"] if audit["leakage"]["images"] is not None else []
    checked += ["file"] if audit["leakage"].get("files") is not None else []
    checked += ["near-duplicate patch"] if audit["leakage"]["near_duplicates"] is not None else []
    comma = "," if len(checked) > 2 else ""
    listed = f"{', '.join(checked[:-1])}{comma} or {checked[-1]}" if len(checked) > 1 else checked[0]
    if unknown:
        return f"{unknown[0]} No {listed} is in more than one split."
    return f"No leakage: no {listed} is in more than one split."


def _association_sentence(audit: dict) -> list[str]:
    strengths = {name: _trained(audit, name)["cramers_v"]["value"] for name in audit["attributes"]}
    known = {name: value for name, value in strengths.items() if value is not None}
    if not known:
        return []
    strongest = max(known, key=lambda name: known[name])
    return [
        f"The attribute most strongly associated with {audit['label']} is {strongest} (Cramér's V "
        f"{number(known[strongest], 2)}; 0 is no association, 1 is complete)."
    ]


def _trained(audit: dict, attribute: str) -> dict:
    """Return the association in the training split, or over all patients if there is no training split."""
    association = audit["attributes"][attribute]["association"]
    return association.get("train" if "train" in audit["splits"] else "all") or association["all"]


def _add_leakage(page: Page, audit: dict, thumbnails: Callable[[str], np.ndarray] | None) -> None:
    leaks = {name: leak for name, leak in (audit["leakage"] or {}).items() if leak and leak["count"]}
    if not leaks:
        return
    page.section("Leakage", "Patients, slides, or images in more than one split; excluded rows are ignored.")
    for name, leak in leaks.items():
        if name == "near_duplicates":
            _add_near_duplicates(page, leak, thumbnails)
            continue
        examples = pd.DataFrame(leak["examples"]).map(lambda cell: cell if isinstance(cell, str) else ", ".join(cell))
        page.table(examples, f"{name.capitalize()}: {leak['count']:,} ({plural(leak['rows'], 'row')})")


def _add_near_duplicates(page: Page, leak: dict, thumbnails: Callable[[str], np.ndarray] | None) -> None:
    examples = leak["examples"]
    rows = []
    for pair in examples:
        row: dict = {"differing bits": pair["distance"]}
        for name in ("first", "second"):
            row[name] = f"{pair[name]['split']}: {pair[name].get('image', pair[name]['slide'])}"
            row[f"{name} patient"] = pair[name]["patient"]
        rows.append(row)
    caption = (
        f"Near-duplicate pairs: {leak['count']:,} ({plural(leak['rows'], 'row')}); one per pair of slides is shown"
    )
    page.table(pd.DataFrame(rows), caption)
    pictures = []
    for pair in examples:
        ends = [pair["first"], pair["second"]]
        sides = [_thumbnail(end["image"], thumbnails) for end in ends if "image" in end and thumbnails is not None]
        shown = [side for side in sides if side is not None]
        if len(shown) == 2:
            bits = pair["distance"]
            names = "\n".join(f"{end['split']}: {end['image']}" for end in ends)
            pictures.append((side_by_side(shown[0], shown[1], THUMBNAIL), f"{names}\n{bits} of 64 bits differ"))
    if pictures:
        page.figures(pictures)


def _thumbnail(image: str, thumbnails: Callable[[str], np.ndarray]) -> np.ndarray | None:
    try:
        return thumbnails(image)
    except (InputError, OSError):
        return None


def _add_association(page: Page, audit: dict) -> None:
    label = audit["label"]
    page.section(
        f"Association of attributes with {label}",
        "Patients are counted once per class and value. Cramér's V is 0 for no association and 1 if one column "
        "determines the other; it is corrected for bias from few patients and many values. Balanced accuracy is that "
        "of guessing, without an image, the most common class among the other patients with the same value.",
    )
    rows = []
    for name, section in audit["attributes"].items():
        for split, figures in section["association"].items():
            rows.append({"attribute": name, "split": split, **_figures_row(figures)})
    page.table(pd.DataFrame(rows), max_rows=100)
    values = {name: section["classes_per_value"] for name, section in audit["attributes"].items()}
    shares = {
        name: {
            "values": per["single_class"]["of"],
            "values in a single class": per["single_class"]["values"],
            "share of patients": per["single_class"]["share_of_patients"],
            "classes per value, mean": per["mean"],
            "classes per value, maximum": per["max"],
            "value with the maximum": per["max_value"],
        }
        for name, per in values.items()
    }
    page.table(pd.DataFrame(shares).T.rename_axis("attribute").infer_objects(), "Number of classes per value")


def _figures_row(figures: dict) -> dict:
    rule, interval = figures["majority_rule"], figures["cramers_v"]["ci95"]
    return {
        "patients": figures["n"],
        "Cramér's V": figures["cramers_v"]["value"],
        "95% CI": f"{interval[0]:.3f}\u00a0to\u00a0{interval[1]:.3f}" if interval else None,
        "uncorrected": figures["cramers_v_uncorrected"]["value"],
        "normalized mutual information": figures["normalized_mutual_information"]["value"],
        "uncertainty coefficient": figures["uncertainty_removed"]["value"],
        "accuracy": rule["accuracy"],
        "largest class": rule["largest_class"],
        "balanced accuracy": rule["balanced_accuracy"],
        "chance": rule["chance"],
    }


def association_bars(audit: dict) -> Figure:
    """Plot Cramér's V, normalized mutual information, and balanced accuracy of guessing the class, by attribute."""
    names = list(audit["attributes"])
    figures = [_trained(audit, name) for name in names]
    figure = Figure(figsize=(10, 1.1 + 0.55 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for height, given in enumerate(figures):
        value, interval = given["cramers_v"]["value"], given["cramers_v"]["ci95"]
        error = [[value - interval[0]], [interval[1] - value]] if interval else None
        error = None if error is None else np.clip(error, 0, None)
        shared = given["normalized_mutual_information"]["value"]
        left.barh(height - 0.18, value or 0, 0.34, xerr=error, color="#2b6cb0", ecolor="#222", capsize=3)
        left.barh(height + 0.18, shared or 0, 0.34, color="#9fc5e8")
        if value is None:
            left.text(0.01, height - 0.18, "undefined", va="center", fontsize=8)
        rule = given["majority_rule"]
        if rule["chance"] is not None:
            right.barh(height, rule["balanced_accuracy"], 0.5, color="#2b6cb0")
            right.plot([rule["chance"]] * 2, [height - 0.35, height + 0.35], color=HELD_OUT, lw=2)
    left.set(xlim=(0, 1), xlabel="Cramér's V (dark), normalized mutual information (light)")
    right.set(xlim=(0, 1), xlabel="balanced accuracy of guessing (red line: chance)")
    left.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    left.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _add_attribute(page: Page, audit: dict, name: str, section: dict) -> None:
    label = audit["label"]
    page.section(f"{label} by {name}")
    if not section["num_values"] or not section["num_classes"]:
        page.text(f"Not reported: no row has values of both {label} and {name}.")
        return
    table = patients_table(section["cells"], label, name, audit["settings"]["continuous"])
    shown = table.iloc[:MOST_ROWS, :MOST_COLUMNS]
    held = held_out_cells(section["cells"], label, name)
    sentences = [
        "Patients per combination (log color scale); a dot marks a combination without patients."
        + (" Red frames mark held-out combinations that are not in train." if held else "")
    ]
    for kind, most, count in (("classes", MOST_ROWS, len(table)), ("values", MOST_COLUMNS, table.shape[1])):
        if count > most:
            sentences.append(f"Of {count:,} {kind}, the {most} with the most patients are shown.")
    if shown.shape != table.shape:
        left_out = 1 - shown.to_numpy().sum() / max(1, table.to_numpy().sum())
        sentences.append(f"The values not shown contain {left_out:.0%} of patients; audit.json has all counts.")
    page.figure(count_heat_map(shown, held), " ".join(sentences))
    rare = section["rare_cells"]
    if rare["count"]:
        least = audit["settings"]["min_patients"]
        caption = f"{rare['count']:,} combinations with fewer than {least} patients; the rarest are shown"
        page.table(pd.DataFrame(rare["examples"][:10]), caption)


def patients_table(cells: dict, label: str, attribute: str, continuous: Collection[str]) -> pd.DataFrame:
    """Return the number of patients by class and value, largest first; a patient in two splits counts in each.

    Args:
        cells: counts of ``audit.json`` by class, value and split.
        label: column of the class.
        attribute: column of the values.
        continuous: columns of numbers, whose values are intervals and stay in order.
    """
    frame = pd.DataFrame(cells)
    frame = frame[(frame[label] != "") & (frame[attribute] != "")]
    table = frame.pivot_table(index=label, columns=attribute, values="patients", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(1).sort_values(ascending=False, kind="stable").index]
    if attribute in continuous:
        return table[sorted(table.columns, key=_lower_bound)]
    if are_intervals(list(table.columns)):
        return table[in_order(table.columns)]
    return table[table.sum(0).sort_values(ascending=False, kind="stable").index]


def _lower_bound(name: str) -> float:
    return float(name.partition(" to ")[0])


def held_out_cells(cells: dict, label: str, attribute: str) -> set[tuple[str, str]]:
    """Return the pairs of class and value that are held out and not in training; ``cells`` as above."""
    pairs: dict[str, set[tuple[str, str]]] = {}
    for one, two, split in zip(cells[label], cells[attribute], cells["split"]):
        pairs.setdefault(split, set()).add((one, two))
    return pairs.get("holdout", set()) - pairs.get("train", set())


def count_heat_map(
    table: pd.DataFrame, framed: Collection[tuple[str, str]] = (), size: tuple[float, float] | None = None
) -> Figure:
    """Draw a heat map of counts with a logarithmic color scale, numbers in the cells, and dots in empty cells.

    Args:
        table: counts, one row per class and one column per value.
        framed: ``(row, column)`` names of the cells to frame.
        size: width and height in inches, for a small plot without color bar; by default, as large as names need.
    """
    counts = table.to_numpy(float)
    rows, columns = counts.shape
    text, frame = (8, 2) if size else (6.5, 1.4)
    width = CELL_INCHES * (1 if columns > 12 else 1.6)
    figure = Figure(figsize=size or (3.2 + width * columns, 1.6 + CELL_INCHES * rows), layout="constrained")
    axes = figure.subplots()
    # the scale starts below 1, so that a single patient is visible
    norm = LogNorm(0.3, max(3, counts.max(initial=0)))
    image = axes.imshow(np.ma.masked_less(counts, 1), cmap="Blues", norm=norm, aspect="auto")
    turned: dict = {"rotation": 90} if columns > 12 else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    label_cells(axes, [short(name) for name in table.index], [short(name) for name in table.columns], 8, **turned)
    axes.set_xlabel(short(table.columns.name or ""), parse_math=False)
    axes.set_ylabel(short(table.index.name or ""), parse_math=False)
    axes.plot(*np.nonzero(counts.T < 1), ".", color="#bbb", ms=1.5)
    write_in_cells(axes, counts, counts >= 1, _compact, lambda count: norm(count) > 0.6, text)
    for row, column in itertools.product(range(rows), range(columns)):
        if (table.index[row], table.columns[column]) in framed:
            axes.add_patch(Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, fill=False, ec=HELD_OUT, lw=frame))
    if size:
        return figure
    ticks = [step * 10**power for power in range(9) for step in (1, 2, 5) if step * 10**power <= norm.vmax]
    bar = figure.colorbar(image, label="patients", shrink=min(1, 8 / rows), aspect=12, ticks=ticks, format="{x:,.0f}")
    bar.ax.set_ylim(1)
    bar.ax.minorticks_off()
    return figure


def _compact(count: float) -> str:
    return f"{count:.0f}" if count < 1000 else f"{count / 1000:.0f}k" if count >= 9950 else f"{count / 1000:.1f}k"


def _add_combinations(page: Page, audit: dict) -> None:
    section = audit["combinations"]
    if section is None:
        return
    names = " × ".join(section["columns"])
    page.section("Combinations in training", f"Combinations of {names} in train: {section['train']['combinations']:,}.")
    rows = {
        split: {name.replace("_", " "): count for name, count in held.items() if isinstance(count, int)}
        for split, held in section.items()
        if split not in ("columns", "train")
    }
    if rows:
        page.table(pd.DataFrame(rows).T.rename_axis("split"))
    unseen = [
        {"split": split, "column": column, "values": len(values), "not in train": ", ".join(values[:20])}
        for split in rows
        for column, values in section[split]["values_unseen_in_train"].items()
        if values
    ]
    if unseen:
        page.table(pd.DataFrame(unseen))


def _add_metadata(page: Page, audit: dict) -> None:
    missing = {
        name: {
            **{unit: count for unit, count in found.items() if unit != "by_class"},
            "lowest share in a class": min(found["by_class"].values(), default=None),
            "highest share in a class": max(found["by_class"].values(), default=None),
        }
        for name, found in audit["missing"].items()
    }
    frame = pd.DataFrame(missing).T.rename_axis("column").infer_objects()
    page.section("Missing metadata").table(
        frame, "Rows, slides, and patients without a value, and share of patients by class"
    )
    rows = [
        {"property": entry["property"], "values": entry["num_values"], "associated with": target}
        | {
            "Cramér's V": figures["cramers_v"]["value"],
            "balanced accuracy": figures["majority_rule"]["balanced_accuracy"],
            "chance": figures["majority_rule"]["chance"],
        }
        for entry in audit["properties"]
        for target, figures in (entry["targets"] or {"– (one value)": None}).items()
        if figures is not None
    ]
    constant = [entry["property"] for entry in audit["properties"] if entry["num_values"] < 2]
    if audit["properties"]:
        alike = f" Constant in all files: {', '.join(constant)}." if constant else ""
        page.section(
            "File properties",
            "Association of size, type, resolution, and compression with class and attributes." + alike,
        )
    if rows:
        page.table(pd.DataFrame(rows))
