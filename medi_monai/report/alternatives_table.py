"""Alternatives to the tuning: how close each comes to the target, what it preserves, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medi_monai.report.alignment_plots import corrected_distance
from medi_monai.report.page import Page
from medi_monai.report.words import DASH, arm_title, duration_text, figure_text, known, share_table

__all__ = ["add_alternatives", "stages_of"]

OWN = ("before", "after")
WORDS = {
    "retrained": "Retrained: the original model, trained further on real images resampled to the target shares.",
    "resampled": "Resampled: images of the original model, selected so that the guide predicts the target shares. "
    "Several images are generated for each one kept. They come from different noise, so there are no pairs.",
}
BUDGET = "Retraining uses as many forward and backward passes as the tuning was allowed."
#: relative difference in forward and backward passes below which two arms have the same compute
ROUNDING = 0.05


def add_alternatives(page: Page, content: Mapping[str, Any]) -> None:
    """Add a section with the answer for every alternative and a table of all arms; none without alternatives.

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
    page.section("Alternatives at equal compute" if same else "Alternatives")
    page.text("\n".join([*(WORDS[arm] for arm in [*others, *left_out] if arm in WORDS), *([BUDGET] if same else ())]))
    for arm in others:
        verdict = content["verdict"][arm]
        page.notice(f"{arm_title(arm)}. {verdict['findings'][0]['text']}")
    for arm, why in left_out.items():
        page.notice(f"{arm_title(arm)}: not reported, because {why}.", "warning")
    columns = {arm: _column(content, arm) for arm in content["proportions"]}
    rows = {
        name: {arm_title(arm): cells[name] for arm, cells in columns.items()} for name in next(iter(columns.values()))
    }
    if not costs:
        rows = {name: cells for name, cells in rows.items() if name not in ("run time", "forward and backward passes")}
    page.table(share_table(rows, "all arms"), "Distance to the target, quality, and cost")


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
        "verdict": content["verdict"].get(arm, {}).get("answer", DASH),
        "distance to the target": figure_text(distance["total_variation"], 3),
        "distance to the target, corrected": figure_text(corrected_distance(distance).get("total_variation"), 3),
        "similarity to the image before, subgroup kept": figure_text(pairs.get("stayed"), 3),
        "similarity to the image before, subgroup changed": figure_text(pairs.get("changed"), 3),
        "Fréchet distance": figure_text(all_images["frechet_distance"]),
        "Fréchet distance, ratio to before": changes[0],
        "Fréchet distance in subgroups, largest ratio": changes[1],
        "diversity in subgroups, smallest ratio": changes[2],
        "images kept": _kept(content, arm),
        "forward and backward passes": _passes(cost),
        "run time": duration_text(sum(seconds)) if seconds else DASH,
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
    return f"{one['images']:,} of {one['of']:,} ({100 * one['images'] / one['of']:.0f}%)"


def _passes(cost: Mapping[str, Any]) -> str:
    spent, allowed = cost.get("gradient_images"), cost.get("gradient_images_allowed")
    if spent is None:
        return DASH
    return f"{spent:,}" + (f" of {allowed:,} allowed" if allowed and allowed != spent else "")


def stages_of(costs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Stages of all arms: name to ``seconds`` and the arms that need it.

    Args:
        costs: of ``metrics.json``.
    """
    stages: dict[str, dict[str, Any]] = {}
    for arm, cost in costs.items():
        for stage, seconds in (cost.get("stages") or {}).items():
            row = stages.setdefault(stage, {"seconds": seconds, "needed for": arm_title(arm)})
            row["needed for"] += "" if arm_title(arm) in row["needed for"] else f", {arm_title(arm)}"
    return stages
