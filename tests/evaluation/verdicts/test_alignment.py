import numpy as np
import pytest
from result_contents import NONE, alignment_content, figure

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.evaluation.alignment.shares import change_of_distance, shares_of_part
from medi_monai.evaluation.verdicts.alignment import alignment_verdict, cautions, curve_rises
from medi_monai.results import typed
from medi_monai.results.alignment import AlignmentMetrics, TuningCurve

VALUES = ("dark", "bright")


def verdict_content(after, by_guide):
    """600 images before of which 480 are dark; the target is even."""
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))

    def read(counts):
        counts = {"before": np.array([480, 120]), "after": np.array(counts)}
        shares = {arm: shares_of_part(of_arm, part) for arm, of_arm in counts.items()}
        return {
            "proportions": {arm: {"shade": of_arm.pop("proportions")} for arm, of_arm in shares.items()},
            "distance_to_target": {arm: {"shade": of_arm} for arm, of_arm in shares.items()},
            "change": {"after": {"shade": change_of_distance(counts["before"], counts["after"], part)}},
        }

    ratios = {"before": NONE, "after": figure(0.95, 0.91, 0.99, 99)}
    content = alignment_content()
    figures = content["fidelity"]["all"]["arms"]["after"]
    group = {**content["fidelity"]["all"], "arms": {arm: {**figures, "ratio": ratios[arm]} for arm in ratios}}
    measures = {
        arm: {name: figure(0.5, ratio=ratio) for name in ("ms_ssim", "features")} for arm, ratio in ratios.items()
    }
    pairs = dict.fromkeys(("all", "stayed", "changed", "unrelated", "score_change"), NONE)
    return {
        **content,
        "part": "shade",
        **read(after),
        "readers": {"guide": {**read(by_guide), "held_out": {}}},
        "fidelity": {name: {**group, "arms": dict(group["arms"])} for name in ("all", *VALUES)},
        "diversity": {value: {arm: dict(of_arm) for arm, of_arm in measures.items()} for value in VALUES},
        "consistency": {"after": {**pairs, "num_stayed": 0, "num_changed": 0}},
        "named_prompts": {},
        "curve": None,
    }


def verdict_of(content):
    return alignment_verdict(typed(AlignmentMetrics, content))


def with_ratio(content, value, interval, n=99):
    ratio = {"value": value, "ci95": interval, "n": n}
    arms = content["fidelity"]["bright"]["arms"]
    arms["after"] = {**arms["after"], "ratio": ratio}
    return content


def test_a_curve_that_rises_again_while_the_guide_falls():
    def curve(judge, guide, kept):
        rows = [
            {"step": 10 * n, "classifiers": {name: {"distance": distance, "proportions": {}} for name, distance in
                                             (("judge", of_judge), ("guide", of_guide))}}
            for n, (of_judge, of_guide) in enumerate(zip(judge, guide))
        ]  # fmt: skip
        return typed(TuningCurve, {"rows": rows, "kept_step": kept})

    falling = [0.4, 0.2, 0.1, 0.02]
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling, 30), 0.05).least == 0.19
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling, 20), 0.05) is None
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.21], falling, 30), 0.05) is None
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling[::-1], 30), 0.05) is None
    assert curve_rises(None, 0.05) is None


@pytest.mark.parametrize(
    ("after", "by_guide", "answer"),
    [
        ((300, 300), (300, 300), "met"),
        ((480, 120), (480, 120), "no effect"),
        ((400, 200), (400, 200), "missed"),
        ((540, 60), (320, 280), "fooled the guide"),
        ((540, 60), (540, 60), "missed"),
    ],
)
def test_the_answer(after, by_guide, answer):
    assert verdict_of(verdict_content(after, by_guide)).answer == answer


@pytest.mark.parametrize(
    ("ratio", "answer"),
    [
        ((1.3, [1.1, 1.5]), "quality lost"),
        ((1.3, [0.9, 1.5]), "quality not shown"),
        ((1.51, [0.89, 2.56]), "quality not shown"),
        # a distance that falls, but of which nobody knows how certainly
        ((0.94, [0.52, 1.67]), "quality not shown"),
        ((0.8, None), "quality not shown"),
        ((None, None), "quality not shown"),
        ((1.02, [1.001, 1.099]), "met"),
        ((0.8, [0.7, 1.1]), "met"),
    ],
)
def test_distances_within_subgroups_have_to_be_non_inferior(ratio, answer):
    content = verdict_content((300, 300), (300, 300))
    with_ratio(content, *ratio)
    verdict = verdict_of(content)
    assert verdict.answer == answer and verdict.quality_lost is (answer == "quality lost")
    content = verdict_content((400, 200), (400, 200))
    with_ratio(content, *ratio)
    assert verdict_of(content).answer == "missed"


def test_a_subgroup_that_is_not_wanted_has_no_quality_to_show():
    content = verdict_content((300, 300), (300, 300))
    with_ratio(content, None, None, 0)
    content["target"] = {**content["target"], "target": {"dark": 1.0, "bright": 0.0}}
    content["diversity"]["bright"]["after"] = {name: figure(None, ratio=NONE) for name in ("ms_ssim", "features")}
    assert verdict_of(content).answer == "met"


def test_what_is_beyond_the_limit_but_uncertain_is_a_warning():
    content = verdict_content((300, 300), (300, 300))
    with_ratio(content, 1.3, [0.9, 1.5], 20)
    content["diversity"]["dark"]["after"]["ms_ssim"] = figure(0.5, ratio=figure(0.8, 0.5, 1.1, 20))
    levels = {one.text.split(",")[0]: one.level for one in verdict_of(content).findings}
    worse = "Worse Fréchet distance not ruled out (the upper limit of the interval has to be at most 1.10): bright"
    lower = "Lower diversity not ruled out (the lower limit of the interval has to be at least 0.90): dark (structure)"
    assert levels[worse + ". Fréchet distance"] == levels[lower + ". Diversity within subgroups"] == "warning"
    content["diversity"]["dark"]["after"]["ms_ssim"] = figure(0.5, ratio=figure(0.8, 0.7, 0.88, 20))
    assert verdict_of(content).answer == "quality lost"


def test_prompt_adherence_that_was_chance_before_is_pointed_out():
    content = verdict_content((300, 300), (300, 300))

    def finding(share):
        before = {
            "share": share,
            "by_value": dict.fromkeys(VALUES, share),
            "left_out": 0,
            "ratio": figure(1, 1, 1, n=200),
        }
        content["named_prompts"] = {"shade": {"before": before, "after": before}}
        return next(one for one in verdict_of(content).findings if "name shade" in one.text)

    assert finding(figure(0.98, 0.95, 0.99, n=200)).level == "ok"
    blind = finding(figure(0.52, 0.45, 0.59, n=200))
    assert blind.level == "warning" and "followed such prompts no better than chance (0.50)" in blind.text


def test_pairs_that_all_kept_their_subgroup():
    content = verdict_content((300, 300), (300, 300))
    content["consistency"]["after"] |= {
        "stayed": figure(0.99, 0.98, 0.995, n=200),
        "unrelated": figure(0.1, 0.1, 0.1, n=200),
    }
    texts = " ".join(one.text for one in verdict_of(content).findings)
    assert "(200 pairs), no pair changed it; images from different noise" in texts


def test_the_encoder_of_the_loss_is_warned_of():
    def finding(regularizer):
        content = {**verdict_content((300, 300), (300, 300)), "regularizer": regularizer}
        content["encoder"] = {"name": "embedded", "dim": 81, "weights_sha256": "c0ffee"}
        return next(one for one in cautions(typed(AlignmentMetrics, content)) if "encoder embedded" in one.text)

    assert finding(None).level == "note"
    other = finding({"name": "clip", "weights_sha256": "0"})
    assert other.level == "note" and "took no part in the tuning; its consistency loss used clip" in other.text
    assert finding({"name": "embedded", "weights_sha256": "c0ffee"}).level == "warning"


def test_what_a_judge_at_chance_level_reads_is_never_in_order():
    content = verdict_content((300, 300), (300, 300))
    assert [one.level for one in verdict_of(content).findings] == ["ok"] * 3
    content["judge"]["at_chance"] = ["shade"]
    verdict = verdict_of(content)
    assert verdict.answer == "undecided"
    assert [one.level for one in verdict.findings] == ["error", "note", "note"]
