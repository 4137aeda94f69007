import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medi_monai.metrics import group_means, stain_regression
from medi_monai.utils.errors import InputError

LABELS = ["a"] * 4 + ["b"] * 5 + ["c"] * 2
RNG = np.random.default_rng(0)
REAL = RNG.uniform(0.1, 0.9, (11, 3))
GENERATED = 0.6 * REAL + RNG.normal(0, 0.1, (11, 3))


def centered(values, labels=LABELS):
    frame = pd.DataFrame(values)
    return (frame - frame.groupby(pd.Series(labels)).transform("mean")).to_numpy().ravel()


def test_slopes_and_correlations_equal_scipys():
    regression = stain_regression(REAL, GENERATED, LABELS)
    within = stats.linregress(centered(REAL), centered(GENERATED))
    pooled = stats.linregress((REAL - REAL.mean(0)).ravel(), (GENERATED - GENERATED.mean(0)).ravel())
    assert (regression["slope"], regression["r"]) == pytest.approx((within.slope, within.rvalue))
    assert (regression["slope_pooled"], regression["r_pooled"]) == pytest.approx((pooled.slope, pooled.rvalue))
    assert regression["slope"] == pytest.approx(np.polyfit(centered(REAL), centered(GENERATED), 1)[0])
    assert regression["n"] == 11


def test_the_order_of_rows_does_not_matter():
    order = RNG.permutation(11)
    shuffled = stain_regression(REAL[order], GENERATED[order], [LABELS[row] for row in order])
    assert shuffled == pytest.approx(stain_regression(REAL, GENERATED, LABELS))


@pytest.mark.parametrize("scale", [1, 0.4, -0.5])
def test_a_scaled_copy_has_its_scale_for_a_slope(scale):
    regression = stain_regression(REAL, scale * REAL, LABELS)
    assert regression["slope"] == pytest.approx(scale) and regression["slope_pooled"] == pytest.approx(scale)
    assert regression["r"] == pytest.approx(np.sign(scale))


def test_a_model_that_knows_the_class_alone_has_slope_zero():
    # dyadic fractions, whose means are exact
    real = np.array([[0.25], [0.75], [1.25], [1.75]]) * [1, 2, 4]
    means = np.array([[0.5], [0.5], [1.5], [1.5]]) * [1, 2, 4]
    regression = stain_regression(real, means, list("aabb"))
    assert regression["slope"] == 0 and regression["r"] is None
    assert regression["slope_pooled"] == pytest.approx(0.8)


def test_densities_of_the_classes_do_not_leak_into_the_slope():
    offset = {"a": 0.0, "b": 3.0, "c": -2.0}
    shift = np.array([[offset[label]] for label in LABELS])
    plain, shifted = (
        stain_regression(REAL, GENERATED, LABELS),
        stain_regression(REAL + shift, GENERATED + shift, LABELS),
    )
    assert (shifted["slope"], shifted["r"]) == pytest.approx((plain["slope"], plain["r"]))
    assert shifted["slope_pooled"] > plain["slope_pooled"] + 0.1


def test_a_class_with_a_single_center_is_left_out():
    plain = stain_regression(REAL, GENERATED, LABELS)
    real, generated = np.vstack([REAL, [[9, 9, 9]]]), np.vstack([GENERATED, [[-9, -9, -9]]])
    regression = stain_regression(real, generated, [*LABELS, "d"])
    assert (regression["slope"], regression["r"], regression["n"]) == pytest.approx((plain["slope"], plain["r"], 11))


def test_undefined_figures_are_none_with_their_count():
    alone = stain_regression(REAL[:3], GENERATED[:3], ["a", "b", "c"])
    assert (alone["slope"], alone["r"], alone["n"]) == (None, None, 0)
    assert alone["slope_pooled"] is not None
    alike = stain_regression(np.full((4, 3), 0.5), GENERATED[:4], ["a"] * 4)
    assert [alike[name] for name in ("slope", "r", "slope_pooled", "r_pooled", "n")] == [None, None, None, None, 4]


@pytest.mark.parametrize(
    ("real", "generated", "labels"),
    [(REAL, GENERATED[:-1], LABELS), (REAL, GENERATED, LABELS[:-1]), (REAL[:, 0], GENERATED[:, 0], LABELS)],
)
def test_shapes_that_do_not_match_are_refused(real, generated, labels):
    with pytest.raises(InputError, match="do not match"):
        stain_regression(real, generated, labels)


def test_group_means_equal_pandas():
    means = group_means(REAL, LABELS)
    expected = pd.DataFrame(REAL).groupby(pd.Series(LABELS)).mean()
    assert list(means) == ["a", "b", "c"]
    for label, mean in means.items():
        assert mean == pytest.approx(expected.loc[label].to_numpy())
    pairs = [(label, row % 2) for row, label in enumerate(LABELS)]
    assert group_means(REAL, pairs)["c", 1] == pytest.approx(REAL[9])
    with pytest.raises(ValueError):
        group_means(REAL, LABELS[:-1])


def test_rounding_is_no_spread():
    constant = np.full((7, 3), 0.1)
    assert stain_regression(constant, np.random.default_rng(0).random((7, 3)), list("aaaaaaa"))["slope"] is None
    labels = list("aaaabbb")
    by_class = np.array([[0.1] * 3] * 4 + [[0.3] * 3] * 3)
    figures = stain_regression(by_class, 2 * by_class + 0.05, labels)
    assert figures["slope"] is None and figures["r"] is None and figures["slope_pooled"] == pytest.approx(2)
