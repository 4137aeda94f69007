"""Contents of results files, made up: pages and verdicts are tested with them."""

import numpy as np

from medi_monai.evaluation.probing import BASELINES
from medi_monai.report.sections import DISTANCES, QUALITY

VALUES = ("female", "male")
METRICS = (*DISTANCES, *QUALITY)
FIGURES = ("balanced_accuracy", "worst_group_accuracy", "group_mean_accuracy", "mcc", "auroc", "calibration_error",
           "in_domain_accuracy")  # fmt: skip


def figure(value, low=None, high=None, n=100, **more):
    return {"value": value, "ci95": None if low is None else [low, high], "n": n, **more}


NONE = figure(None, n=0)


def memory(copies=None, **changes):
    return {"distance": 3.0, "copies": copies or figure(0.01, 0.0, 0.02), "limit": 0.9, "correlation": 0.951,
            "nearer": None, "ratio": 0.98, **changes}  # fmt: skip


def copy_search(*splits):
    recall = {"unchanged": figure(1.0, 0.981, 1.0, 200), "restained": figure(0.945, 0.904, 0.969, 200)}
    return {"limit": 0.9, "splits": splits, "recall": recall}


# --- metrics.json of an alignment


def _shares(female):
    return {
        "sex": {
            "female": figure(female, female - 0.05, female + 0.05),
            "male": figure(1 - female, 0.9 - female, 1.0),
        }
    }


def _distances(value, corrected):
    made = {"total_variation": figure(value, 0.0, value + 0.05), "kl": figure(value**2)}
    behind = {"proportions": {name: figure(0.5 - value) for name in VALUES}, "undefined": None, **made}
    return {"sex": {**made, "corrected": behind if corrected else None}}


def _predicted(corrected=True):
    return {
        "proportions": {"before": _shares(0.1), "after": _shares(0.4)},
        "distance_to_target": {"before": _distances(0.4, corrected), "after": _distances(0.1, corrected)},
        "change": {"after": {"sex": figure(-0.3, -0.35, -0.25)}},
    }


def _accuracy():
    accuracy = figure(0.91, 0.88, 0.94, 300)
    return {"values": VALUES, "chance": 0.5, "n": 300, "num_patients": 100, "balanced_accuracy": accuracy,
            "confusion": [[90, 10], [20, 180]], "recall": dict.fromkeys(VALUES, accuracy)}  # fmt: skip


def alignment_content():
    """Before and after an alignment of sex: a target of one half that is missed, without any warning of quality."""
    figures = {metric: figure(2.0, 1.5, 2.5, 64) for metric in METRICS}
    arms = {"before": {**figures, "ratio": NONE}, "after": {**figures, "ratio": figure(0.81, 0.7, 0.93)}}
    counts = {"before": 200, "after": 200, "reference": 400}
    group = {"matched": 64, "counts": counts, "one_patient": False, "floor": figures, "arms": arms}
    spread = {"ms_ssim": figure(0.6, ratio=figure(1.02)), "features": figure(9.0, ratio=figure(0.97))}
    prompt = {"n": 12, "few": True, "proportions": _shares(0.25)["sex"], "total_variation": figure(0.25, n=12),
              "kl": figure(0.1, n=12)}  # fmt: skip
    prompts = [
        {"prompt": "axial <FLAIR> & more", "arms": {"before": prompt, "after": {**prompt, "n": 40, "few": False}}}
    ]
    rows = [{"step": step, "classifiers": {name: {"distance": 0.4 - step / 100, "proportions": {}}
                                           for name in ("guide", "validation", "judge")}}
            for step in (0, 10, 20)]  # fmt: skip
    finding = {"level": "warning", "text": "The target is missed: so much is known."}
    return {
        "part": "sex",
        "target": {
            "attributes": ["sex"],
            "target": {"female": 0.5, "male": 0.5},
            "parts": {"sex": {"female": 0.5, "male": 0.5}},
        },
        "judge": {"held_out": {"sex": _accuracy()}, "at_chance": []},
        "training": {"sex": {"female": figure(0.2, 0.18, 0.22, 3000), "male": figure(0.8, 0.78, 0.82, 3000)}},
        **_predicted(),
        "readers": {"guide": {**_predicted(False), "held_out": {}}},
        "by_prompt": {"sex": {"prompts": prompts, "least_images": 30,
                              "mean": {arm: {**NONE, "by_chance": None} for arm in ("before", "after")}}},
        "notes": [],
        "consistency": {"after": {"all": figure(0.95), "stayed": figure(0.97), "changed": NONE,
                                  "unrelated": figure(0.7), "score_change": NONE, "num_stayed": 70, "num_changed": 0}},
        "clip_score": {"before": figure(0.31), "after": figure(0.3)},
        "fidelity": {"all": group, "female": {**group, "matched": 0}, "male": group},
        "diversity": {value: dict.fromkeys(("before", "after", "reference"), spread) for value in VALUES},
        "memorization": {name: memory(correlation=None) for name in ("before", "after", "held_out")},
        "copy_search": copy_search("val", "holdout"),
        "named_prompts": {"sex": {arm: {"share": figure(0.9), "by_value": {value: figure(0.9) for value in VALUES},
                                        "left_out": 3, "ratio": figure(0.987, 0.97, 1.0)}
                                  for arm in ("before", "after")}},
        "curve": {"rows": rows, "kept_step": 10},
        "costs": {},
        "chosen": {},
        "settings_that_differ": {},
        "encoder": {"name": "embedded", "dim": 81},
        "settings": {"tolerance": 0.05, "arms": {"before": "b", "after": "a"}},
        "digests": {"cohort": "c0ffee"},
        "verdict": {"after": {"answer": "missed", "quality_lost": False, "findings": [finding]}},
        "warnings": [{"level": "warning", "text": "after has 200 images: below 500, intervals are wide."}],
    }  # fmt: skip


def alignment_with(*arms):
    """The content with further arms; those chosen among other images have no pairs."""
    given = alignment_content()
    for arm in arms:
        for read in (given, *given["readers"].values()):
            for field in ("proportions", "distance_to_target", "change"):
                read[field][arm] = read[field]["after"]
        for group in given["fidelity"].values():
            group["arms"][arm] = group["arms"]["after"]
        for by_name in given["diversity"].values():
            by_name[arm] = by_name["after"]
        for row in given["by_prompt"]["sex"]["prompts"]:
            row["arms"][arm] = row["arms"]["after"]
        for by_arm in (given["by_prompt"]["sex"]["mean"], given["clip_score"], given["memorization"]):
            by_arm[arm] = by_arm["after"]
        given["consistency"][arm] = given["consistency"]["after"]
        finding = {"level": "ok", "text": "Like the real ones."}
        given["verdict"][arm] = {"answer": "met", "quality_lost": False, "findings": [finding]}
    if "resampled" in arms:
        none = dict.fromkeys(("all", "stayed", "changed", "unrelated", "score_change"), NONE)
        given["consistency"]["resampled"] = {**none, "num_stayed": 0, "num_changed": 0}
    return given


# --- metrics.json of arms


def _combinations(pairs, level):
    return [
        figure(level + index / 10, n=64, num_combinations=1, values={"tumor": tumor, "center": center},
               seen=index % 3 > 0, floor=1.0 + index / 10, counts={"real": 200}, one_patient=False)
        for index, (tumor, center) in enumerate(pairs)
    ]  # fmt: skip


def _arm_metrics(level, pairs):
    metrics = {}
    for metric in METRICS:
        metrics[metric] = {
            name: figure(level * scale, 0.9 * level * scale, 1.1 * level * scale, 640, num_combinations=len(pairs))
            for name, scale in (("mean", 1.0), ("seen", 0.8), ("unseen", 1.3))
        }
        metrics[metric] |= {
            "floor": figure(2.5, 2.25, 2.75, 640, num_combinations=len(pairs)),
            "floor_seen": figure(2.0, n=640, num_combinations=len(pairs)),
            "floor_unseen": figure(3.5, n=640, num_combinations=len(pairs)),
            "by_combination": _combinations(pairs, level),
            "by_label": {
                tumor: figure(level, n=320, num_combinations=8, floor=2.4,
                              pooled=figure(level / 2, n=640, range_over_halves=[1.23, 4.56]),
                              pooled_floor=figure(0.77, n=640, range_over_halves=None))
                for tumor in sorted({pair[0] for pair in pairs})
            },
        }  # fmt: skip
    metrics["frechet_distance"]["all_images"] = figure(0.0345)
    return metrics | {
        "label_fidelity": figure(
            0.86868, 0.85, 0.88, 640, left_out=0, by_value={pairs[0][0]: 0.7123}, seen=0.9012, unseen=0.8123
        ),
        "attribute_fidelity": {"center": figure(0.127, 0.113, 0.143, 640, left_out=0, by_value={})},
        "diversity": figure(0.4321, n=10),
        "memorization": memory(figure(0.008, 0.004, 0.012), ratio=0.97, nearer=figure(0.512, 0.48, 0.545)),
        "pixel_variance": figure(0.9234, n=10),
    }


def arms_content(names=("cls", "medi"), pairs=None):
    """Of arms with 24 combinations of tumor and center, at distances of 12, 32, …; 2.5 between real images."""
    pairs = pairs or [(f"T{row}", f"C{column}") for row in range(3) for column in range(8)]
    ceiling = {"value": 0.91, "chance": 1 / 3, "n": 900, "num_values": 3}
    return {
        "label": "tumor",
        "attributes": ["center"],
        "encoder": {"name": "embedded", "dim": 81, "mean": [0.0, 0.0, 0.0], "weights_sha256": "0f12"},
        "settings": {"min_images": 16, "k": 5, "image_size": 32, "arms": dict.fromkeys(names, "sampled")},
        "settings_that_differ": {},
        "digests": {"cohort": "44316a"},
        "real": {
            "floor": {metric: figure(2.5, 2.25, 2.75, 640, num_combinations=24) for metric in METRICS},
            "label_fidelity": ceiling,
            "attribute_fidelity": {"center": {**ceiling, "value": 0.998}},
            "diversity": figure(0.4111, n=10),
            "memorization": memory(figure(0.007, 0.004, 0.012), correlation=0.944, ratio=1.0),
            "copy_search": copy_search("val"),
        },
        "arms": {name: _arm_metrics(12.0 + 20 * index, pairs) for index, name in enumerate(names)},
        "comparisons": [
            {"arms": list(names), "combinations": "all", "ratio_of_means": 28.37,
             "log_ratio": {"difference": figure(float(np.log(30.4)), float(np.log(22.4)), float(np.log(41.2)), 640),
                           "p_value": 5e-5, "n": 24}}
        ] if len(names) == 2 else [],
    }  # fmt: skip


# --- probe.json


def arm_results(level, centers=("Birch", "Fir"), classes=("T0", "T1"), trainings=1):
    figures = {name: figure(level + index / 100, level - 0.1, level + 0.1, 3517) for index, name in enumerate(FIGURES)}
    for values in figures.values():
        values["trainings"] = [values["value"]] * trainings
    figures["worst_group_accuracy"] |= {"group": "T1 · Fir", "n": 118, "num_groups": 10, "num_too_small": 2}
    gaps = {"equal_opportunity": figure(level / 2, 0.0, 0.5, 3517), "equalized_odds": figure(None, n=3517)}
    return figures | {
        "per_center": {name: {"value": level, "n": 10 + nth, "num_classes": 2} for nth, name in enumerate(centers)},
        "per_class": {name: {"value": level, "n": 100 + nth} for nth, name in enumerate(classes)},
        "demographics": {"race": {**gaps, "groups": {"asian": 574, "white": 2063}}},
        "training": {"num_real": 8352.0, "num_added": 2048.0, "c": 10.0, "converged": 1.0},
    }


def comparison(name, other, difference):
    balanced = name == "balanced_accuracy"
    return {"figure": name, "arms": ["medi", other], "difference": figure(difference, difference - 0.05, 0.4, n=12),
            "standard_error": 0.02, "df": 8.5, "variance": {"test": 3e-4, "draws": 1e-4}, "p_value": 0.0021,
            "p_holm": 0.0063, "p_equivalence": 0.8 if balanced else None}  # fmt: skip


def probe_content(
    names=("real", "stain_normalized", "cls", "medi"),
    centers=("Birch", "Fir"),
    classes=("T0", "T1"),
    repeats=12,
    left_out=(),
):
    """Of a probing whose last arm is the focus; all but the known baselines are generated."""
    generated = [name for name in names if name not in BASELINES]
    points = [
        {"point": point, "arm": name, "n": 3, "num_trainings": 1, "balanced_accuracy": 0.5,
         "balanced_accuracy_ci95": [0.4, 0.6], "worst_group_accuracy": 0.3, "worst_group_accuracy_ci95": [0.1, 0.5],
         "num_real": 1000.0, "num_added": 1000.0 * point} for point in (0.5, 2.0) for name in generated
    ]  # fmt: skip
    curve = [{"level": level, **figure(0.9 - level / 5, 0.6, 1.0, n=12)} for level in (0.0, 0.5, 1.0)]
    readable = {"value": 0.853, "chance": 0.5, "n": 13099, "num_values": 2}
    return {
        "label": "tumor",
        "attributes": ["center"],
        "demographics": ["race"],
        "arms": {name: arm_results(0.5 + index / 10, centers, classes) for index, name in enumerate(names)},
        "comparisons": [
            comparison(metric, name, 0.1 + index / 100) for metric in FIGURES for index, name in enumerate(names[:-1])
        ],
        "sweeps": {"ratio": points, "real_per_class": points, "num_centers": []},
        "shortcut": {
            "label_probe_accuracy": readable,
            "center_probe_accuracy": {**readable, "value": 0.998},
            "robustness_index": {"value": 0.014, "k": 5, "num_pairs": 64, "n": 29228, "balanced_accuracy": 0.87},
            "clustering_score": {"value": -0.412, "label_agreement": 0.05, "center_agreement": 0.462,
                                 "num_clusters": 4.0, "num_pairs": 16, "n": 6400, "num_repeats": 50},
            "correlation": {
                "levels": [0.0, 0.5, 1.0],
                "arms": {name: {"curve": curve, "average_performance_drop": figure(-0.214, -0.32, -0.135, n=12),
                                "nipd": figure(-0.377, -0.5, -0.25, n=4),
                                "outside_drop": figure(-0.251, -0.4, -0.1, n=12),
                                "outside_nipd": figure(-0.433, -0.6, -0.2, n=4)}
                         for name in names if name not in left_out},
                "num_squares": 4, "num_test": 1000, "num_test_known": 510, "num_outside": 640,
                "left_out": list(left_out),
            },
        },
        "test": {
            "n": 3517,
            "patients": 32,
            "left_out": 0,
            "what": "combinations of class and center not seen in training",
            "unit": "combination",
            "num_units": 10,
            "groups": [{"values": {"tumor": "T0", "center": name}, "n": 5, "seen": False} for name in centers],
        },
        "training": {"n": 8814, "patients": 74, "validation": 768, "classes": list(classes)},
        "encoder": {"name": "embedded", "image_size": None},
        "settings": {"num_repeats": repeats, "min_count": 10, "arms": dict.fromkeys(generated, "sampled"),
                     "focus": names[-1], "real_per_class": None, "c_values": [0.1, 1.0, 10.0]},
        "settings_that_differ": {},
        "digests": {"draws": "bc7e5d"},
    }  # fmt: skip
