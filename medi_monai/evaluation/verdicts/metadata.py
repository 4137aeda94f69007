"""Findings of the metadata experiment, in plain words; *no effect* is one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medi_monai.metrics.memorization import reproduces_training_images
from medi_monai.report.words import arm_title, differing_settings, number
from medi_monai.results import Figure, Finding

__all__ = ["verdict"]

ALPHA = 0.05
#: a difference in balanced accuracy that matters to nobody, whatever its p value
TRIFLE = 0.01


def verdict(
    fidelity: Mapping[str, Any], probe: Mapping[str, Any], focus: str = "medi", rival: str = "cls"
) -> list[Finding]:
    """Sentences with a level each, the answer first.

    An effect on a classifier is claimed where the corrected p value is below 0.05, the 95 % interval of the difference
    excludes 0, and the difference is more than 0.01; all three, in one direction.

    Args:
        fidelity: ``metrics.json`` of ``evaluation``.
        probe: ``probe.json`` of ``probing``.
        focus: the arm that knows the metadata.
        rival: the arm that knows the class alone.
    """
    findings = _of_probe(probe, focus, rival)
    findings += _of_fidelity(fidelity, focus, rival)
    findings += _of_shortcut(probe)
    return findings + _warnings(fidelity, probe, focus)


def _of_probe(probe: Mapping[str, Any], focus: str, rival: str) -> list[Finding]:
    rows = {row["arms"][1]: row for row in probe["comparisons"] if row["figure"] == "balanced_accuracy"}
    wanted = [name for name in ("real", rival) if name in rows]
    effects = {name: _effect(rows[name]) for name in wanted}
    sentences = [_difference(rows[name], focus, name) for name in wanted]
    baselines = {name: row for name, row in rows.items() if name not in wanted}
    best = max(baselines, key=lambda name: probe["arms"][name]["balanced_accuracy"]["value"] or 0.0, default=None)
    if not effects:
        return [Finding("warning", "No comparison: there is no other arm.")]
    if all(effect > 0 for effect in effects.values()):
        level, answer = "ok", "Metadata help: images generated with metadata improve the classifier."
    elif any(effect < 0 for effect in effects.values()):
        level, answer = "error", "Generated images reduce accuracy."
    elif any(effect > 0 for effect in effects.values()):
        improved = " and ".join(arm_title(name) for name, effect in effects.items() if effect > 0)
        level, answer = "warning", f"Mixed result: accuracy improves over {improved} only."
    else:
        level, answer = (
            "note",
            "No effect: any difference made by the generated images is too small or too uncertain to claim.",
        )
    differences = {name: rows[name]["difference"] for name in wanted}
    compared = "; ".join(sentence.removesuffix(".") for sentence in sentences)
    findings = [Finding(level, f"{answer} {compared}. Tested on {probe['test']['what']}.", differences)]
    if best is not None:
        effect = _effect(baselines[best])
        words = {1: "is better than", 0: "does not differ significantly from", -1: "is worse than"}[effect]
        text = (
            f"{arm_title(focus)} {words} the best baseline without generated images, {arm_title(best)}. "
            f"{_difference(baselines[best], focus, best)}"
        )
        findings.append(
            Finding({1: "ok", 0: "note", -1: "warning"}[effect], text, {best: baselines[best]["difference"]})
        )
    findings += _of_worst_group(probe, focus, wanted)
    return findings


def _of_worst_group(probe: Mapping[str, Any], focus: str, others: Sequence[str]) -> list[Finding]:
    values = {name: probe["arms"][name]["worst_group_accuracy"] for name in (focus, *others)}
    if any(worst["value"] is None for worst in values.values()):
        return [Finding("note", "Worst-group accuracy is undefined: no group has enough test images.")]
    text = ", ".join(
        f"{arm_title(name)} {worst['value']:.2f} ({worst['group']}, {worst['n']} images)"
        for name, worst in values.items()
    )
    tested = {row["arms"][1]: row for row in probe["comparisons"] if row["figure"] == "worst_group_accuracy"}
    effects = [_effect(tested[name]) if name in tested else 0 for name in others]
    certain = [name for name, effect in zip(others, effects) if effect]
    ending = "no difference is significant"
    if certain:
        ending = f"only the difference from {' and '.join(map(arm_title, certain))} is significant"
    if others and len(certain) == len(others):
        ending = "the differences are significant" if len(others) > 1 else "the difference is significant"
    level = "warning" if any(effect < 0 for effect in effects) else "ok" if any(effects) and all(effects) else "note"
    figures = {name: Figure.of(worst) for name, worst in values.items()}
    return [Finding(level, f"Worst-group accuracy: {text}; {ending}.", figures)]


def _of_fidelity(fidelity: Mapping[str, Any], focus: str, rival: str) -> list[Finding]:
    arms = fidelity["arms"]
    if focus not in arms:
        return []
    mine = arms[focus]["frechet_distance"]
    if rival not in arms or mine["mean"]["value"] is None:
        return [
            Finding(
                "note",
                f"Fréchet distance to real images: {arm_title(focus)} {_number(mine['mean'])}; real images of other "
                f"patients {_number(mine['floor'])}.",
                {focus: mine["mean"], "floor": mine["floor"]},
            )
        ]
    theirs = arms[rival]["frechet_distance"]
    pair = next(
        row for row in fidelity["comparisons"] if set(row["arms"]) == {focus, rival} and row["combinations"] == "all"
    )
    test = pair["log_ratio"]
    text = (
        f"Mean Fréchet distance to real images: {arm_title(focus)} {_number(mine['mean'])}, {arm_title(rival)} "
        f"{_number(theirs['mean'])}; real images of other patients {_number(mine['floor'])}."
    )
    if mine["unseen"]["value"] is not None:
        text += f" For combinations not in training: {_number(mine['unseen'])} and {_number(theirs['unseen'])}."
    text += f" Paired test over {test['n']} combinations: {_p(test['p_value'])}."
    certain = test["p_value"] is not None and test["p_value"] < ALPHA
    nearer = mine["mean"]["value"] < theirs["mean"]["value"]
    figures = {focus: mine["mean"], rival: theirs["mean"], "floor": mine["floor"]}
    return [Finding("ok" if certain and nearer else "warning" if certain else "note", text, figures)]


def _of_shortcut(probe: Mapping[str, Any]) -> list[Finding]:
    shortcut, findings = probe["shortcut"], []
    name = next(iter(probe.get("attributes") or ["center"]))
    center = shortcut.get("center_probe_accuracy") or {}
    if center.get("value") is not None:
        findings.append(
            Finding(
                "note",
                f"The {name} can be predicted from the features of real images with a balanced accuracy of "
                f"{center['value']:.2f} (chance {center['chance']:.2f}).",
                {name: center},
            )
        )
    drops = {arm: curve["average_performance_drop"]["value"] for arm, curve in shortcut["correlation"]["arms"].items()}
    if drops and all(value is not None for value in drops.values()):
        text = ", ".join(f"{arm_title(arm)} {number(100 * value, 1)}%" for arm, value in drops.items())
        findings.append(
            Finding(
                "note",
                f"Mean change in balanced accuracy as {name} and class become correlated in training: {text}.",
                drops,
            )
        )
    return findings


def _warnings(fidelity: Mapping[str, Any], probe: Mapping[str, Any], focus: str) -> list[Finding]:
    findings = []
    if fidelity["settings_that_differ"]:
        findings.append(Finding("warning", differing_settings(fidelity["settings_that_differ"])))
    held_out = fidelity["real"].get("memorization")
    copies = fidelity["arms"].get(focus, {}).get("memorization")
    if copies and held_out and reproduces_training_images(copies, held_out):
        text = (
            f"{arm_title(focus)} reproduces training images: {copies['copies']['value']:.1%} of its images are copies, "
            f"versus {held_out['copies']['value']:.1%} of held-out real images."
        )
        findings.append(Finding("error", text, {focus: copies["copies"], "held_out": held_out["copies"]}))
    draws = probe["settings"].get("num_repeats")
    others = sum(row["figure"] == "balanced_accuracy" for row in probe["comparisons"])
    # the test over draws exchanges signs: its least p value, corrected for the number of arms
    if draws and others and others * 2 / 2**draws >= ALPHA:
        text = (
            f"With {draws} draws and {others} comparisons, no corrected p value can fall below {ALPHA}, so no effect "
            "can be claimed. Increase --num_repeats."
        )
        findings.append(Finding("warning", text))
    patients = probe["test"]["patients"]
    if patients < 20:
        findings.append(
            Finding("warning", f"The test images come from only {patients} patients, so results may differ for others.")
        )
    strongest, weakest = min(probe["settings"]["c_values"]), max(probe["settings"]["c_values"])
    edge = [name for name, figures in probe["arms"].items() if figures["training"]["c"] in (strongest, weakest)]
    if edge and strongest < weakest:
        names = ", ".join(map(arm_title, edge))
        text = f"The best C lies at the edge of its range for {names}: extend the range with --c_values."
        findings.append(Finding("warning", text))
    short = [name for name, figures in probe["arms"].items() if figures["training"]["converged"] < 1]
    if short:
        findings.append(Finding("warning", f"Some probes did not converge: {', '.join(map(arm_title, short))}."))
    return findings


def _effect(row: Mapping[str, Any]) -> int:
    difference, p_value = row["difference"], row["p_holm"]
    if p_value is None or p_value >= ALPHA or difference["ci95"] is None or abs(difference["value"]) <= TRIFLE:
        return 0
    low, high = difference["ci95"]
    return 1 if low > 0 else -1 if high < 0 else 0


def _difference(row: Mapping[str, Any], focus: str, other: str) -> str:
    difference, pair = row["difference"], f"{arm_title(focus)} − {arm_title(other)}"
    if difference["value"] is None:
        return f"{pair}: undefined."
    low, high = (_signed(edge) for edge in difference["ci95"] or (None, None))
    return f"{pair}: {_signed(difference['value'])} balanced accuracy (95% CI {low} to {high}, {_p(row['p_holm'])})."


def _signed(value: float | None) -> str:
    text = number(value, 3)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def _number(figure: Mapping[str, Any]) -> str:
    return "–" if figure["value"] is None else f"{figure['value']:.2f}"


def _p(value: float | None) -> str:
    return "p undefined" if value is None else f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"
