"""Other ways to a target beside the tuning: what each reaches, what it keeps and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medi_monai.report.alignment_plots import corrected_distance
from medi_monai.report.page import Page
from medi_monai.report.words import DASH, figure_text, known, number, share_table

__all__ = ["add_alternatives"]

OWN = ("before", "after")
WORDS = {
    "retrained": "Retrained: the untuned model, trained on with real images that were resampled to the target; those "
    "of rare subgroups come more often.",
    "resampled": "Resampled: of many images of the untuned model, the largest part in which the guide reads the shares "
    "of the target. Nothing is tuned; in return, every image that is kept costs the drawing of several. They are of "
    "other noise than those before: there are no pairs.",
}
BUDGET = (
    "The budget: the retraining sends as many images forward and back through the network as the updates of the tuning "
    "were allowed."
)
#: images forward and back of two arms that differ by less, as a part, are the same budget
ROUNDING = 0.05


def add_alternatives(page: Page, content: Mapping[str, Any]) -> None:
    """Add a section with the answer for every further arm, and a table of all arms side by side; none without them.

    Args:
        page: to add to.
        content: of ``metrics.json``.
    """
    costs: Mapping[str, Any] = content.get("costs") or {}
    others = [arm for arm in content["proportions"] if arm not in OWN]
    left_out = {arm: one["left_out"] for arm, one in costs.items() if one.get("left_out")}
    if not others and not left_out:
        return
    same = _same_budget(costs)
    page.section("Alternatives with the same budget" if same else "Alternatives, for comparison")
    page.text("\n".join([*(WORDS[arm] for arm in [*others, *left_out] if arm in WORDS), *([BUDGET] if same else ())]))
    for arm in others:
        verdict = content["verdict"][arm]
        page.notice(f"{arm}, for comparison: {verdict['answer']}. {verdict['findings'][0]['text']}")
    for arm, why in left_out.items():
        page.notice(f"{arm} is left out: {why}.", "warning")
    columns = {arm: _column(content, arm) for arm in content["proportions"]}
    rows = {name: {arm: cells[name] for arm, cells in columns.items()} for name in next(iter(columns.values()))}
    if not costs:
        rows = {name: cells for name, cells in rows.items() if name not in ("seconds", "images forward and back")}
    page.table(share_table(rows, "all arms"), "What each reaches, what it keeps of before, and what it costs")
    _add_stages(page, costs)


def _same_budget(costs: Mapping[str, Any]) -> bool:
    tuned, other = (costs.get(arm) or {} for arm in ("after", "retrained"))
    allowed, spent = tuned.get("gradient_images_allowed"), other.get("gradient_images")
    return bool(allowed and spent and abs(spent / allowed - 1) < ROUNDING)


def _column(content: Mapping[str, Any], arm: str) -> dict[str, str]:
    part, cost = content["part"], (content.get("costs") or {}).get(arm) or {}
    distance = content["distance_to_target"][arm][part]
    pairs, all_images = content["consistency"].get(arm) or {}, content["fidelity"]["all"]["arms"][arm]
    seconds = [one for one in (cost.get("stages") or {}).values() if known(one) is not None]
    changes = [figure_text(all_images["ratio"]), _largest_distance(content, arm), _least_diversity(content, arm)]
    if arm == "before":
        changes = [DASH] * 3
    return {
        "answer": content["verdict"].get(arm, {}).get("answer", DASH),
        "distance to the target, judge": figure_text(distance["total_variation"], 3),
        "the same, corrected": figure_text(corrected_distance(distance).get("total_variation"), 3),
        "cosine with the image before, subgroup kept": figure_text(pairs.get("stayed"), 3),
        "the same, subgroup changed": figure_text(pairs.get("changed"), 3),
        "Fréchet distance to real images of the target": figure_text(all_images["frechet_distance"]),
        "the same, times before": changes[0],
        "within subgroups, times before, the largest": changes[1],
        "diversity within subgroups, times before, the least": changes[2],
        "images kept": _kept(content, arm),
        "images forward and back": _passes(cost),
        "seconds": number(sum(seconds)) if seconds else DASH,
    }


def _largest_distance(content: Mapping[str, Any], arm: str) -> str:
    given = {group: one["arms"][arm]["ratio"] for group, one in content["fidelity"].items() if group != "all"}
    return _extreme(given, largest=True)


def _least_diversity(content: Mapping[str, Any], arm: str) -> str:
    given = {
        f"{group}, {title}": by_name[arm][measure]["ratio"]
        for group, by_name in content["diversity"].items()
        for measure, title in (("ms_ssim", "structure"), ("features", "features"))
    }
    return _extreme(given, largest=False)


def _extreme(given: Mapping[str, Mapping[str, Any]], largest: bool) -> str:
    values = {name: known(one.get("value")) for name, one in given.items()}
    usable = {name: value for name, value in values.items() if value is not None}
    if not usable:
        return DASH
    name = (max if largest else min)(usable, key=usable.__getitem__)
    return f"{figure_text(given[name])}, {name}"


def _kept(content: Mapping[str, Any], arm: str) -> str:
    one = (content.get("chosen") or {}).get(arm)
    if not one:
        return "all"
    return f"{one['images']:,} of {one['of']:,} ({100 * one['images'] / one['of']:.0f} %)"


def _passes(cost: Mapping[str, Any]) -> str:
    spent, allowed = cost.get("gradient_images"), cost.get("gradient_images_allowed")
    if spent is None:
        return DASH
    return f"{spent:,}" + (f" of {allowed:,} allowed" if allowed and allowed != spent else "")


def _add_stages(page: Page, costs: Mapping[str, Any]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for arm, one in costs.items():
        for stage, seconds in (one.get("stages") or {}).items():
            row = rows.setdefault(stage, {"seconds": number(seconds), "for": arm})
            row["for"] += "" if row["for"] == arm else f", {arm}"
    if rows:
        page.table(
            share_table(rows, "stage"),
            "Seconds by stage; some ran beside another one and were slower for it, so that they sum to more than the "
            "experiment took. The training of the model and of the judge is common to "
            "all arms and not counted",
        )
