from dataclasses import replace

import numpy as np
import pytest

from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw
from medi_monai.evaluation.probing.sweeps import sweep_points, without_added
from medi_monai.metrics import estimate
from medi_monai.results.probing import Training

TRAINING = Training(4, 8, 1.0, True)


def arm_of(added):
    return ArmDraw(ArmScores.balanced_accuracy_alone(0.5), Training(10, added, 1.0, True))


def test_sweeps_have_a_row_per_point_and_arm():
    records = []
    for point, value in ((1.0, 0.5), (0.5, 0.2), (1.0, 0.7)):
        figures = {"balanced_accuracy": value, "worst_group_accuracy": None}
        scores = replace(ArmScores.balanced_accuracy_alone(value), figures=figures)
        records.append(Draw("ratio", point, 0, {"medi": ArmDraw(scores, Training(4, 8, 1.0, True))}))
    rows = sweep_points(records, "ratio")
    assert [row.point for row in rows] == [0.5, 1.0] and rows[1].n == 2
    assert rows[1].balanced_accuracy == pytest.approx(0.6) and rows[1].balanced_accuracy_ci95 == (0, 1)  # of two draws
    assert rows[1].worst_group_accuracy is None and rows[1].worst_group_accuracy_ci95 is None
    assert sweep_points(records, "num_centers") == ()


def test_points_are_means_over_trainings_and_draws_with_their_interval():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.65, 0.75, (3, 4))
    names = ("medi", "medi (training 2)", "medi (training 3)")

    def arm(value):
        scores = ArmScores.balanced_accuracy_alone(value)
        return ArmDraw(replace(scores, figures={**scores.figures, "worst_group_accuracy": value / 2}), TRAINING)

    records = [
        Draw("ratio", 0.5, repeat, {"real": arm(0.75), **dict(zip(names, map(arm, of_draw)))})
        for repeat, of_draw in enumerate(values.T)
    ]
    real, medi = sweep_points(records, "ratio", {"cls": ("cls",), "medi": names})
    assert (real.arm, medi.arm, real.num_trainings, medi.num_trainings, medi.n) == ("real", "medi", 1, 3, 4)
    assert real.balanced_accuracy_ci95 == (0.75, 0.75)
    found = estimate(values)
    assert set(found.sources) == {"trainings", "images", "draws"}
    assert medi.balanced_accuracy == pytest.approx(values.mean())
    assert medi.balanced_accuracy_ci95 == pytest.approx(found.interval())
    assert medi.worst_group_accuracy_ci95 == pytest.approx(np.array(found.interval()) / 2)
    assert medi.num_added == 8


def test_draws_that_added_no_generated_image_are_told():
    none, some = arm_of(0), arm_of(4)
    main = [Draw("main", None, repeat, {"real": none, "cls": some, "medi": some}) for repeat in range(3)]
    centers = [Draw("num_centers", 2, repeat, {"real": none, "cls": arm, "medi": arm}) for repeat, arm in
               enumerate((none, some))]  # fmt: skip
    real_only = [Draw("real_per_class", 25, 0, {"real": none})]
    assert without_added([*main, *real_only], ["cls", "medi"]) == without_added(main, []) == []
    (finding,) = without_added([*main, *centers, *real_only], ["cls", "medi"])
    assert finding.level == "error" and finding.figures == {"draws": 1, "of": 2}
    assert finding.text.startswith("Sweep over the number of centers: no generated image was added in 1 of 2 draws")
    alone = [replace(draw, arms={**draw.arms, "cls": none, "medi": none}) for draw in main]
    text = without_added(alone, ["cls", "medi"])[0].text
    assert text.startswith("Comparison of arms: no generated image was added in all draws")
