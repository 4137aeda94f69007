"""From the draws of a probe to figures with intervals, paired tests and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing import ProbeProtocol
from medi_monai.evaluation.probing.scoring import COUNTED, FIGURES, TestUnits
from medi_monai.metrics import holm, paired_test, percentile_interval

__all__ = ["long_table", "summarize_all"]

Record = Mapping[str, Any]
#: sweeps over settings, besides that over the correlation of class and center
SWEEPS = ("ratio", "real_per_class", "num_centers")


def summarize_all(
    records: Sequence[Record],
    arms: Sequence[str],
    focus: str,
    protocol: ProbeProtocol,
    units: TestUnits,
    settings: Any,
) -> dict[str, Any]:
    """The tables of ``probe.json``.

    Args:
        records: one per draw, as the run wrote them.
        arms: in the order of the tables.
        focus: the arm that is tested against each other one.
        protocol: for what was trained and tested on.
        units: of the test images.
        settings: a :class:`medi_monai.engines.ProbeSettings`.

    Returns:
        ``arms``, ``comparisons``, ``sweeps``, ``shortcut.correlation`` and ``test``.
    """
    main = [record for record in records if record["sweep"] == "main"]
    by_arm = {arm: [record["arms"][arm] for record in main] for arm in arms}
    num_test = len(protocol.test)
    groups = {
        "n": num_test,
        "patients": int(units.table["patient"].nunique()),
        # of classes without training images
        "left_out": protocol.num_untrained,
        "groups": _test_groups(protocol),
        "what": _tested_on(protocol),
    }
    return {
        "arms": {arm: _arm(draws, num_test) for arm, draws in by_arm.items()},
        "comparisons": _comparisons(by_arm, focus),
        "sweeps": {sweep: _curves(records, sweep) for sweep in SWEEPS},
        "shortcut": {"correlation": _correlation(records)},
        "test": groups,
        "training": {
            "n": len(protocol.train),
            "patients": int(len(np.unique(protocol.patients[protocol.train]))),
            "validation": len(protocol.val),
            "classes": protocol.classes,
        },
    }


def _test_groups(protocol: ProbeProtocol) -> list[dict[str, Any]]:
    codes, counts = np.unique(protocol.groups[protocol.test], return_counts=True)
    columns, seen = [protocol.label, *protocol.attributes], set(protocol.groups[protocol.train].tolist())
    return [
        {**dict(zip(columns, protocol.group_names[code])), "n": int(count), "seen": code in seen}
        for code, count in zip(codes.tolist(), counts.tolist())
    ]


def _tested_on(protocol: ProbeProtocol) -> str:
    tested = set(protocol.groups[protocol.test].tolist())
    unseen = len(tested - set(protocol.groups[protocol.train].tolist()))
    if unseen == len(tested):
        return "combinations not in training"
    if unseen == 0:
        return "other patients, with combinations from training"
    return f"other patients; {unseen} of {len(tested)} combinations are not in training"


def _arm(draws: Sequence[Record], num_test: int) -> dict[str, Any]:
    result: dict[str, Any] = {name: _figure(draws, name, num_test) for name in FIGURES}
    worst = [draw["worst_group"] for draw in draws]
    counts = {" · ".join(one["group"]): one["n"] for one in worst if one["group"]}
    named = pd.Series([" · ".join(one["group"]) for one in worst if one["group"]], dtype="str")
    group = named.mode().iloc[0] if len(named) else None
    result["worst_group_accuracy"] |= {
        "group": group,
        "n": counts.get(group or "", 0),
        "num_groups": worst[0]["num_groups"],
        "num_too_small": worst[0]["num_too_small"],
    }
    for part in ("per_center", "per_class"):
        result[part] = {
            name: {**one, "value": _mean([draw[part][name]["value"] for draw in draws])}
            for name, one in draws[0][part].items()
        }
    result["demographics"] = {
        column: {
            gap: {
                "value": _mean(values),
                "ci95": percentile_interval(_floats(values)),
                "n": sum(one["groups"].values()),
            }
            for gap in ("equal_opportunity", "equalized_odds")
            for values in [[draw["demographics"][column][gap] for draw in draws]]
        }
        | {"groups": one["groups"]}
        for column, one in draws[0]["demographics"].items()
    }
    result["training"] = {
        name: float(np.mean([draw[name] for draw in draws])) for name in ("num_real", "num_added", "c", "converged")
    }
    return result


def _figure(draws: Sequence[Record], name: str, num_test: int) -> dict[str, Any]:
    values = _floats([draw["figures"][name] for draw in draws])
    # test patients within each draw of training patients: both are part of what another study would vary
    spread = np.concatenate([_floats(draw["replicates"][name]) for draw in draws]) if name in COUNTED else values
    return {
        "value": _mean(values),
        "ci95": percentile_interval(spread),
        "n": num_test,
        "repeats": [None if np.isnan(value) else float(value) for value in values],
    }


def _comparisons(by_arm: Mapping[str, Sequence[Record]], focus: str) -> list[dict[str, Any]]:
    """The focus against every other arm, with p values corrected for their number (Holm), figure by figure.

    ``p_draws`` exchanges the arms draw by draw. ``p_patients`` exchanges them patient by patient for the balanced
    accuracy, in which the difference is a sum over patients; for other figures that counts give it is twice the share
    of bootstrap samples of the patients in which the difference is not on its side of zero. ``p_value`` is the larger:
    an effect has to hold for other patients and for other draws of the training. Area under the curve and calibration
    have ``p_draws`` alone, which says nothing of other patients.
    """
    others = [arm for arm in by_arm if arm != focus]
    found = []
    for name in FIGURES:
        rows = [_compared(by_arm[focus], by_arm[arm], name) | {"arms": [focus, arm]} for arm in others]
        for row, p in zip(rows, holm([row["p_value"] for row in rows])):
            found.append({**row, "p_holm": p})
    return found


def _compared(first: Sequence[Record], second: Sequence[Record], name: str) -> dict[str, Any]:
    one, two = (_floats([draw["figures"][name] for draw in draws]) for draws in (first, second))
    by_draw = paired_test(one.tolist(), two.tolist())
    result: dict[str, Any] = {"figure": name, "difference": by_draw["difference"], "p_draws": by_draw["p_value"]}
    result["p_value"] = by_draw["p_value"]
    if name not in COUNTED:
        return result
    pairs = zip(first, second)
    gaps = np.concatenate([_floats(a["replicates"][name]) - _floats(b["replicates"][name]) for a, b in pairs])
    result["difference"] = {**by_draw["difference"], "ci95": percentile_interval(gaps)}
    if name == "balanced_accuracy":
        patients = sorted(first[0]["gain"])
        gains = [np.array([[draw["gain"][patient] for patient in patients] for draw in arm]) for arm in (first, second)]
        by_patient = paired_test(*(gain.mean(0).tolist() for gain in gains))
        result |= {"p_patients": by_patient["p_value"], "num_patients": by_patient["n"]}
    else:
        result["p_patients"] = _bootstrap_p_value(gaps)
    known = [p for p in (result["p_draws"], result["p_patients"]) if p is not None]
    result["p_value"] = max(known) if len(known) == 2 else None
    return result


def _bootstrap_p_value(gaps: np.ndarray) -> float | None:
    known = gaps[np.isfinite(gaps)]
    if len(known) < 2:
        return None
    # the sample at hand counts as well, so that no p value is 0
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def _curves(records: Sequence[Record], sweep: str) -> list[dict[str, Any]]:
    """One row per point and arm of a sweep: balanced accuracy and worst-group accuracy, mean and range."""
    rows = []
    points = sorted({record["point"] for record in records if record["sweep"] == sweep})
    for point in points:
        draws = [record for record in records if record["sweep"] == sweep and record["point"] == point]
        for arm in draws[0]["arms"]:
            row: dict[str, Any] = {"point": point, "arm": arm, "n": len(draws)}
            for name in ("balanced_accuracy", "worst_group_accuracy"):
                values = _floats([draw["arms"][arm]["figures"].get(name) for draw in draws])
                row[name] = _mean(values)
                row[f"{name}_range"] = None if np.isnan(values).all() else [np.nanmin(values), np.nanmax(values)]
            row["num_real"] = float(np.mean([draw["arms"][arm]["num_real"] for draw in draws]))
            row["num_added"] = float(np.mean([draw["arms"][arm]["num_added"] for draw in draws]))
            rows.append(row)
    return rows


def _correlation(records: Sequence[Record]) -> dict[str, Any]:
    """Accuracy as the center comes to give the class away, and PathoROB's average performance drop.

    The drop is the mean over correlations above the lowest of ``accuracy / accuracy at the lowest - 1`` (arXiv
    2507.17845), within each draw.
    """
    draws = [record for record in records if record["sweep"] == "correlation"]
    if not draws:
        return {"levels": [], "arms": {}, "num_squares": 0}
    levels = sorted({record["point"] for record in draws})
    arms: dict[str, Any] = {}
    for arm in draws[0]["arms"]:
        table = pd.DataFrame(
            {
                "draw": [f"{record['square']} {record['repeat']}" for record in draws],
                "level": [record["point"] for record in draws],
                "value": _floats([record["arms"][arm]["figures"]["balanced_accuracy"] for record in draws]),
            }
        ).pivot(index="draw", columns="level", values="value")
        drops = (table[levels[1:]].div(table[levels[0]], axis=0).mean(axis=1) - 1).to_numpy()
        arms[arm] = {
            "curve": [
                {
                    "level": level,
                    "value": _mean(table[level]),
                    "ci95": percentile_interval(table[level]),
                    "n": len(table),
                }
                for level in levels
            ],
            "average_performance_drop": {"value": _mean(drops), "ci95": percentile_interval(drops), "n": len(drops)},
        }
    return {
        "levels": levels,
        "arms": arms,
        "num_squares": len({record["square"] for record in draws}),
        "num_test": _of_squares(draws, "num_test"),
        "num_test_known": _of_squares(draws, "num_test_known"),
    }


def _of_squares(draws: Sequence[Record], name: str) -> int:
    """Test images of all squares: the mean over the draws of each, summed."""
    table = pd.DataFrame({"square": [record["square"] for record in draws], "n": [record[name] for record in draws]})
    return round(float(table.groupby("square")["n"].mean().sum()))


def long_table(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row per arm and figure, center, class, or point of a sweep."""
    rows = []
    for arm, figures in content["arms"].items():
        for name in FIGURES:
            rows.append(_row(arm, name, "all", "", figures[name]))
        for part in ("per_center", "per_class"):
            rows += [_row(arm, "balanced_accuracy", part, key, one) for key, one in figures[part].items()]
        for column, gaps in figures["demographics"].items():
            rows += [_row(arm, f"{gap}_gap", column, "", gaps[gap]) for gap in ("equal_opportunity", "equalized_odds")]
    for sweep, points in content["sweeps"].items():
        for point in points:
            one = {"value": point["balanced_accuracy"], "ci95": None, "n": point["n"]}
            rows.append(_row(point["arm"], "balanced_accuracy", sweep, str(point["point"]), one))
    return pd.DataFrame(rows)


def _row(arm: str, figure: str, part: str, key: str, one: Mapping[str, Any]) -> dict[str, Any]:
    low, high = one.get("ci95") or (None, None)
    return {
        "arm": arm, "figure": figure, "part": part, "key": key, "value": one["value"], "low": low, "high": high,
        "n": one["n"],
    }  # fmt: skip


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _mean(values: Any) -> float | None:
    known = _floats(list(values))
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None
