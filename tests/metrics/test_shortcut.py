import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_distances

from medi_monai.metrics import (
    adjusted_rand_index,
    average_performance_drop,
    clustering_score,
    degradation_gradient,
    integrated_degradation,
    mean_silhouette,
)
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)


def rand_by_loops(first, second):
    # Hubert & Arabie: pairs of rows that are together in both, against the number expected with these sizes
    pairs = list(itertools.combinations(range(len(first)), 2))
    both = sum(first[i] == first[j] and second[i] == second[j] for i, j in pairs)
    in_first, in_second = (sum(codes[i] == codes[j] for i, j in pairs) for codes in (first, second))
    expected = in_first * in_second / len(pairs)
    return (both - expected) / ((in_first + in_second) / 2 - expected)


def silhouette_by_loops(points, clusters):
    values = []
    for i, point in enumerate(points):
        means = {}
        for name in set(clusters.tolist()):
            members = [j for j in range(len(points)) if clusters[j] == name and j != i]
            if members:
                cosine = [point @ points[j] / np.linalg.norm(point) / np.linalg.norm(points[j]) for j in members]
                means[name] = 1 - sum(cosine) / len(members)
        own = means.pop(clusters[i], None)
        values.append(0 if own is None else (min(means.values()) - own) / max(min(means.values()), own))
    return sum(values) / len(values)


@pytest.mark.parametrize("num_levels", [2, 5])
def test_the_average_performance_drop_equals_loops(num_levels):
    accuracies = RNG.uniform(0.4, 1, (num_levels, 7))
    drops = []
    for repeat in range(7):
        ratios = [accuracies[level, repeat] / accuracies[0, repeat] for level in range(1, num_levels)]
        drops.append(sum(ratios) / len(ratios) - 1)
    assert average_performance_drop(accuracies) == pytest.approx(drops, abs=1e-12)


def test_the_integrated_degradation_equals_loops_whatever_the_levels():
    levels = np.array([0.0, 0.1, 0.25, 0.7, 1.0])
    accuracies = RNG.uniform(0.55, 1, (5, 6))
    means = [sum(row) / len(row) for row in accuracies.tolist()]
    lost = [(mean - means[0]) / (means[0] - 0.25) for mean in means]
    area = sum((levels[i + 1] - levels[i]) * (lost[i] + lost[i + 1]) / 2 for i in range(4))
    assert integrated_degradation(accuracies, levels, 0.25) == pytest.approx(area, abs=1e-12)


def test_a_steady_fall_to_chance_is_one_half_and_more_levels_change_nothing():
    for levels in ([0, 1], [0, 0.9, 0.95, 1], np.linspace(0, 1, 11)):
        accuracies = (0.9 - 0.4 * np.asarray(levels, float))[:, None].repeat(3, 1)
        assert integrated_degradation(accuracies, levels, 0.5) == pytest.approx(-0.5, abs=1e-12)
        assert integrated_degradation(accuracies[:1].repeat(len(levels), 0), levels, 0.5) == 0
    # accuracy that falls to chance loses less by the other figure, which includes what chance alone reaches
    assert average_performance_drop(np.array([[0.9], [0.5]]))[0] == pytest.approx(0.5 / 0.9 - 1, abs=1e-12)


def test_what_is_undefined_is_nan():
    accuracies = np.array([[0.8, 0.5], [0.6, 0.4]])
    assert np.isnan(average_performance_drop(accuracies[:1])).tolist() == [True, True]
    assert np.isnan(average_performance_drop([[0.0, 0.5], [0.6, np.nan]])).all()
    assert math.isnan(integrated_degradation(accuracies, [0.0, 0.9], 0.5))
    assert math.isnan(integrated_degradation(accuracies, [0.0, 1.0], 0.65))
    assert math.isnan(integrated_degradation([[0.8, np.nan], [0.6, 0.4]], [0.0, 1.0], 0.5))


def test_mistakes_are_one_error():
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        average_performance_drop(np.ones(3))
    for levels in ([0.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0]):
        with pytest.raises(InputError, match="must ascend, one for each of 2 rows"):
            integrated_degradation(np.ones((2, 3)), levels, 0.5)


@pytest.mark.parametrize("num_clusters", [2, 5])
def test_the_clustering_score_equals_loops_and_scikit_learn(num_clusters):
    labels, centers = RNG.integers(0, 2, (2, 40))
    clusters = np.where(RNG.random(40) < 0.6, labels, RNG.integers(0, num_clusters, 40))
    expected = rand_by_loops(labels, clusters) - rand_by_loops(centers, clusters)
    assert clustering_score(labels, centers, clusters) == pytest.approx(expected, abs=1e-12)
    assert adjusted_rand_index(labels, clusters) == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)


def test_clusters_of_classes_and_of_centers_are_the_ends_of_the_score():
    labels, centers = np.repeat([0, 1], 20), np.tile([0, 1], 20)
    # balanced cells: the other partition agrees slightly less than by chance
    assert clustering_score(labels, centers, 1 - labels) == 1 - rand_by_loops(centers, labels)
    assert clustering_score(labels, centers, centers) == rand_by_loops(labels, centers) - 1
    for same in (np.zeros(5, int), np.arange(5)):
        assert adjusted_rand_index(same, same) == 1 == adjusted_rand_score(same, same)


@pytest.mark.parametrize("num_clusters", [2, 6])
def test_the_silhouette_equals_loops_and_scikit_learn(num_clusters):
    points = RNG.standard_normal((25, 4))
    clusters = np.append(RNG.integers(0, num_clusters, 24), num_clusters)  # the last is alone
    distances = cosine_distances(points)
    value = mean_silhouette(distances, clusters)
    assert value == pytest.approx(silhouette_by_loops(points, clusters), abs=1e-9)
    assert value == pytest.approx(silhouette_score(points, clusters, metric="cosine"), abs=1e-9)
    assert math.isnan(mean_silhouette(distances, np.zeros(25, int)))
    assert mean_silhouette(np.zeros((4, 4)), np.array([0, 0, 1, 1])) == 0


def test_the_gradient_of_the_degradation_is_that_of_differences():
    accuracies, levels, step = np.array([0.9, 0.8, 0.7, 0.55]), np.array([0, 0.25, 0.6, 1]), 1e-6
    gradient = degradation_gradient(accuracies, levels, 0.5)
    for at in range(4):
        moved = [accuracies + sign * step * np.eye(4)[at] for sign in (1, -1)]
        ends = [integrated_degradation(values[:, None], levels, 0.5) for values in moved]
        assert gradient[at] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)
