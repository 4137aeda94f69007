import json

from medi_monai.evaluation.probing.draws import (
    ArmDraw,
    ArmScores,
    DemographicGaps,
    Draw,
    WorstGroup,
)
from medi_monai.results import plain, typed
from medi_monai.results.probing import GroupAccuracy, Training


def test_a_draw_is_the_same_after_a_way_through_json():
    scores = ArmScores(
        {"balanced_accuracy": 0.5, "auroc": None},
        {"balanced_accuracy": [0.4, None]},
        WorstGroup(0.1, ("A", "n"), 12, 3, 1, 0),
        {"n": GroupAccuracy(0.5, 5, 2)},
        {"A": GroupAccuracy(None, 0)},
        {"sex": DemographicGaps(None, 0.1, {"f": 3})},
    )
    training = Training(10, 5, 0.1, True)
    alone = ArmDraw(scores.figures_alone(), training)
    assert alone.scores.figures == scores.figures and alone.scores.worst_group is None and not alone.scores.per_class
    draws = [
        Draw("main", None, 2, {"real": ArmDraw(scores, training)}),
        Draw("correlation", 0.5, 0, {"real": alone}, "square0", 40, 12),
    ]
    for draw in draws:
        assert typed(Draw, json.loads(json.dumps(plain(draw)))) == draw


def test_a_whole_number_of_a_sweep_stays_one():
    draw = Draw("real_per_class", 25, 0, {})
    assert str(typed(Draw, json.loads(json.dumps(plain(draw)))).point) == "25"
