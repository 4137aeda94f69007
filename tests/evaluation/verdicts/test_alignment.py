import json

import numpy as np
import pytest

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.evaluation.alignment.shares import change_of_distance, shares_of_part
from medi_monai.evaluation.verdicts.alignment import alignment_verdict, curve_rises

VALUES = ("dark", "bright")


def verdict_content(after, by_guide):
    """600 images before of which 480 are dark; the target is even."""
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))

    def read(counts):
        counts = {"before": np.array([480, 120]), "after": np.array(counts)}
        figures = {arm: {"shade": shares_of_part(one, part)} for arm, one in counts.items()}
        return {
            "distance_to_target": figures,
            "change": {"after": {"shade": change_of_distance(counts["before"], counts["after"], part)}},
        }

    none = {"value": None, "ci95": None, "n": 0}
    ratio = {"before": {"ratio": none}, "after": {"ratio": {"value": 0.9, "ci95": [0.8, 0.99], "n": 99}}}
    measures = {arm: {"ms_ssim": one, "features": one} for arm, one in ratio.items()}
    content = {
        "part": "shade",
        "settings": {"tolerance": 0.05},
        "judge": {"at_chance": []},
        **read(after),
        "readers": {"guide": read(by_guide)},
        "fidelity": {group: {"arms": dict(ratio)} for group in ("all", *VALUES)},
        "diversity": dict.fromkeys(VALUES, measures),
        "consistency": {"after": {"stayed": none, "changed": none, "unrelated": none}},
    }
    return json.loads(json.dumps(content, default=float))


def test_a_curve_that_rises_again_while_the_guide_falls():
    def curve(judge, guide, kept):
        rows = [{"step": 10 * n, "judge": {"distance": one}, "guide": {"distance": other}}
                for n, (one, other) in enumerate(zip(judge, guide))]  # fmt: skip
        return {"rows": rows, "kept_step": kept}

    falling = [0.4, 0.2, 0.1, 0.02]
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling, 30), 0.05)["least"] == 0.19
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
    assert alignment_verdict(verdict_content(after, by_guide)).answer == answer


@pytest.mark.parametrize(
    ("ratio", "lost"), [((1.3, [1.1, 1.5]), True), ((1.3, [0.9, 1.5]), False), ((0.8, None), False)]
)
def test_quality_lost_takes_the_place_of_met(ratio, lost):
    content = verdict_content((300, 300), (300, 300))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": ratio[0], "ci95": ratio[1], "n": 99}
    verdict = alignment_verdict(content)
    assert verdict.answer == ("quality lost" if lost else "met") and verdict.quality_lost is lost
    content = verdict_content((400, 200), (400, 200))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": ratio[0], "ci95": ratio[1], "n": 99}
    assert alignment_verdict(content).answer == "missed"


def test_what_is_beyond_the_limit_but_uncertain_is_a_warning():
    content = verdict_content((300, 300), (300, 300))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": 1.3, "ci95": [0.9, 1.5], "n": 20}
    content["diversity"]["dark"]["after"]["ms_ssim"]["ratio"] = {"value": 0.8, "ci95": [0.5, 1.1], "n": 20}
    levels = {one.text.split(",")[0]: one.level for one in alignment_verdict(content).findings}
    assert levels["Worse Fréchet distance"] == levels["Lower diversity"] == "warning"
    content["diversity"]["dark"]["after"]["ms_ssim"]["ratio"]["ci95"] = [0.7, 0.88]
    assert alignment_verdict(content).answer == "quality lost"


def of(value, low, high, n=200):
    return {"value": value, "ci95": [low, high], "n": n}


def test_prompt_adherence_that_was_chance_before_is_pointed_out():
    content = verdict_content((300, 300), (300, 300))

    def finding(share):
        before = {"share": share, "by_value": dict.fromkeys(VALUES, share), "ratio": of(1, 1, 1)}
        content["named_prompts"] = {"shade": {"before": before, "after": before}}
        return next(one for one in alignment_verdict(content).findings if "name shade" in one.text)

    assert finding(of(0.98, 0.95, 0.99)).level == "ok"
    blind = finding(of(0.52, 0.45, 0.59))
    assert blind.level == "warning" and "did not follow such prompts better than chance (0.50)" in blind.text


def test_pairs_that_all_kept_their_subgroup():
    content = verdict_content((300, 300), (300, 300))
    pairs = {"stayed": of(0.99, 0.98, 0.995), "changed": {"value": None, "ci95": None, "n": 0}}
    content["consistency"]["after"] = {**pairs, "unrelated": of(0.1, 0.1, 0.1)}
    texts = " ".join(one.text for one in alignment_verdict(content).findings)
    assert "(200 pairs), no pair changed it; images from different noise" in texts


def test_what_a_judge_at_chance_level_reads_is_never_in_order():
    content = verdict_content((300, 300), (300, 300))
    assert [one.level for one in alignment_verdict(content).findings] == ["ok"] * 3
    content["judge"]["at_chance"] = ["shade"]
    verdict = alignment_verdict(content)
    assert verdict.answer == "undecided"
    assert [one.level for one in verdict.findings] == ["error", "note", "note"]
