import itertools

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.spatial.distance import cityblock

from medi_monai.metrics.subgroups import (
    corrected_proportions,
    distance_to_target,
    kl_divergence,
    proportions,
    solve_proportions,
    total_variation,
)
from medi_monai.utils.errors import InputError


def values(figures):
    return [each["value"] for each in figures]


def test_proportions_have_the_interval_of_scipy():
    figures = proportions(np.array([30, 0, 70]))
    assert values(figures) == [0.3, 0.0, 0.7]
    for count, each in zip([30, 0, 70], figures):
        expected = stats.binomtest(count, 100).proportion_ci(method="wilson")
        np.testing.assert_allclose(each["ci95"], [expected.low, expected.high], atol=1e-12)
        assert each["n"] == 100


def test_no_image_has_no_figure_but_its_count():
    nothing = {"value": None, "ci95": None, "n": 0}
    assert proportions(np.array([0, 0])) == [nothing] * 2
    assert distance_to_target(np.array([0, 0]), [0.5, 0.5]) == {"total_variation": nothing, "kl": nothing}
    corrected = corrected_proportions(np.array([0, 0]), np.array([[9, 1], [1, 9]]), [0.5, 0.5])
    assert corrected["proportions"] == [nothing] * 2 and corrected["kl"] == nothing and corrected["inside"] is None
    assert corrected["undefined"] == "no image was classified"


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_scipy(seed):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(4), 2)
    assert total_variation(p, q) == pytest.approx(cityblock(p, q) / 2)
    # the largest difference of probability over all events
    events = [sum(p[list(e)]) - sum(q[list(e)]) for k in range(5) for e in itertools.combinations(range(4), k)]
    assert total_variation(p, q) == pytest.approx(max(events))
    assert kl_divergence(p, q) == pytest.approx(stats.entropy(p, q))


def test_an_absent_subgroup_has_a_finite_distance_and_an_unwanted_one_has_none():
    assert kl_divergence([0, 1], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert kl_divergence([0.1, 0.9], [0.0, 1.0]) == np.inf
    distances = distance_to_target(np.array([1, 9]), [0.0, 1.0])
    assert distances["kl"] == {"value": None, "ci95": None, "n": 10}
    assert distances["total_variation"]["value"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("truth", "target"), [([0.7, 0.3], [0.5, 0.5]), ([0.5, 0.5], [0.5, 0.5]), ([0.28, 0.22, 0.27, 0.23], [0.25] * 4)]
)
def test_the_interval_of_a_distance_holds_the_truth_as_often_as_it_says(truth, target):
    rng, held = np.random.default_rng(0), {"total_variation": [], "kl": []}
    for trial in range(150):
        distances = distance_to_target(rng.multinomial(300, truth), target, 300, seed=trial)
        for name, distance in (("total_variation", total_variation), ("kl", kl_divergence)):
            low, high = distances[name]["ci95"]
            held[name].append(low <= distance(truth, target) <= high)
    assert min(map(np.mean, held.values())) >= 0.9


def test_away_from_the_target_the_interval_does_not_reach_zero():
    for distances in (
        distance_to_target(np.array([300, 200]), [0.5, 0.5]),
        corrected_proportions(np.array([300, 200]), np.array([[90, 10], [10, 90]]), [0.5, 0.5]),
    ):
        for name in ("total_variation", "kl"):
            low, high = distances[name]["ci95"]
            assert 0 < low < distances[name]["value"] < high
    wide = corrected_proportions(np.array([270, 230]), np.array([[60, 40], [40, 60]]), [0.5, 0.5])["total_variation"]
    assert wide["ci95"][0] == 0 and wide["value"] == pytest.approx(0.2)


def test_on_target_the_interval_reaches_zero():
    distances = distance_to_target(np.array([251, 249]), [0.5, 0.5])
    assert distances["total_variation"]["ci95"][0] == 0 and distances["kl"]["ci95"][0] == 0
    assert distance_to_target(np.array([251, 249]), [0.5, 0.5]) == distances


def test_two_classes_are_corrected_by_the_formula_of_rogan_and_gladen():
    confusion, counts = np.array([[90, 10], [24, 96]]), np.array([130, 70])
    sensitivity, specificity = 0.9, 0.8
    expected = (130 / 200 + specificity - 1) / (sensitivity + specificity - 1)
    corrected = corrected_proportions(counts, confusion)
    assert values(corrected["proportions"]) == pytest.approx([expected, 1 - expected])
    assert corrected["inside"] and corrected["undefined"] is None
    assert corrected["n"] == 200 and corrected["confusion_n"] == [100, 120]


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_what_a_known_classifier_reads_is_undone_exactly(groups):
    rng = np.random.default_rng(groups)
    rates = 0.6 * np.eye(groups) + 0.4 * rng.dirichlet(np.ones(groups), groups)
    truth = rng.dirichlet(np.ones(groups))
    shares, inside = solve_proportions(rates.T @ truth, rates)
    np.testing.assert_allclose(shares, truth, atol=1e-12)
    assert inside


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_outside_the_simplex_it_is_the_least_squares_solution_on_it(groups, seed):
    rng = np.random.default_rng(seed)
    rates = 0.5 * np.eye(groups) + 0.5 * rng.dirichlet(np.ones(groups), groups)
    read = np.eye(groups)[seed % groups] * 0.96 + 0.04 / groups
    shares, inside = solve_proportions(read, rates)
    expected = optimize.minimize(
        lambda p: ((rates.T @ p - read) ** 2).sum(), np.full(groups, 1 / groups), method="SLSQP", tol=1e-14,
        bounds=[(0, 1)] * groups, constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )  # fmt: skip
    assert not inside
    assert ((rates.T @ shares - read) ** 2).sum() <= expected.fun + 1e-8
    np.testing.assert_allclose(shares, expected.x, atol=2e-4)
    assert shares.min() >= 0 and shares.sum() == pytest.approx(1)


def test_a_perfect_classifier_changes_nothing_but_may_still_err():
    corrected = corrected_proportions(np.array([60, 140]), np.diag([20, 20]), [0.5, 0.5])
    assert values(corrected["proportions"]) == pytest.approx([0.3, 0.7])
    assert corrected["total_variation"]["value"] == pytest.approx(0.2)
    wide, narrow = corrected["proportions"][0]["ci95"], proportions(np.array([60, 140]))[0]["ci95"]
    assert wide[1] - wide[0] > 1.1 * (narrow[1] - narrow[0])
    sure = corrected_proportions(np.array([60, 140]), np.diag([20000, 20000]))["proportions"][0]["ci95"]
    np.testing.assert_allclose(sure, narrow, atol=0.015)


@pytest.mark.parametrize(("truth", "images", "validation"), [(0.3, 400, 150), (0.8, 300, 60), (0.05, 500, 100)])
def test_the_interval_of_a_corrected_share_holds_the_truth_and_that_of_the_read_one_does_not(truth, images, validation):
    rng, rates, held, naive = np.random.default_rng(1), np.array([[0.85, 0.15], [0.2, 0.8]]), [], []
    for trial in range(150):
        counts = rng.multinomial(images, rates.T @ [truth, 1 - truth])
        confusion = np.stack([rng.multinomial(validation, row) for row in rates])
        low, high = corrected_proportions(counts, confusion, None, 200, trial)["proportions"][0]["ci95"]
        held.append(low <= truth <= high)
        low, high = proportions(counts)[0]["ci95"]
        naive.append(low <= truth <= high)
    assert np.mean(held) >= 0.88
    assert np.mean(naive) < 0.75


def test_where_patients_differ_the_interval_holds_the_truth_only_with_the_design_effect():
    # 15 patients per value with 40 images each, whose error rates vary: beta(1.7, 6.8) and beta(3.4, 10.2)
    rng, held = np.random.default_rng(2), {"images": [], "patients": []}
    for trial in range(150):
        errors = [rng.beta(*shape, 15) for shape in ((1.7, 6.8), (3.4, 10.2))]
        wrong = [rng.binomial(40, of_value) for of_value in errors]
        confusion = np.array([[600 - wrong[0].sum(), wrong[0].sum()], [wrong[1].sum(), 600 - wrong[1].sum()]])
        counts = rng.multinomial(600, np.array([[0.8, 0.2], [0.25, 0.75]]).T @ [0.3, 0.7])
        rates = [of_value.mean() / 40 for of_value in wrong]
        effect = sum((of_value / 40).var(ddof=1) / 15 for of_value in wrong) / sum(
            rate * (1 - rate) / 600 for rate in rates
        )
        for name, design_effect in (("images", 1.0), ("patients", effect)):
            figures = corrected_proportions(counts, confusion, None, 200, trial, design_effect)
            low, high = figures["proportions"][0]["ci95"]
            held[name].append(low <= 0.3 <= high)
    assert np.mean(held["patients"]) >= 0.88 and np.mean(held["images"]) < np.mean(held["patients"]) - 0.08


@pytest.mark.parametrize(
    ("confusion", "why"),
    [
        ([[50, 50], [50, 50]], "better than chance"),
        ([[50, 50], [51, 49]], "better than chance"),
        ([[9, 1], [0, 0]], "no image of 1 of 2"),
    ],
)
def test_a_classifier_at_chance_or_untried_gives_no_figure_and_says_why(confusion, why):
    corrected = corrected_proportions(np.array([30, 70]), np.array(confusion), [0.5, 0.5])
    assert why in corrected["undefined"]
    assert corrected["proportions"] == [{"value": None, "ci95": None, "n": 100}] * 2
    assert corrected["total_variation"] == {"value": None, "ci95": None, "n": 100}


def test_figures_are_repeatable_and_follow_the_seed():
    counts, confusion = np.array([30, 50, 20]), np.array([[40, 5, 5], [4, 30, 6], [1, 2, 27]])
    first = corrected_proportions(counts, confusion, [1 / 3] * 3, 100)
    assert first == corrected_proportions(counts, confusion, [1 / 3] * 3, 100)
    assert first["proportions"] != corrected_proportions(counts, confusion, [1 / 3] * 3, 100, seed=1)["proportions"]


@pytest.mark.parametrize("counts", [[1], [-1, 2], [0.5, 0.5], [[1, 2], [3, 4]]])
def test_wrong_counts_are_errors(counts):
    with pytest.raises(InputError, match="for at least two subgroups"):
        proportions(counts)


def test_a_matrix_or_target_that_does_not_fit_is_an_error():
    with pytest.raises(InputError, match=r"\(3, 3\) confusion matrix does not match 2"):
        corrected_proportions(np.array([1, 2]), np.ones((3, 3)))
    for target in ([1.0], [0.5, 0.6], [-0.5, 1.5]):
        with pytest.raises(InputError, match="has to be 2 shares"):
            distance_to_target(np.array([1, 2]), target)
