import itertools

import numpy as np
import pytest
from feature_grids import grid, readable
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, silhouette_score

from medi_monai.evaluation.shortcuts import pairs as module
from medi_monai.evaluation.shortcuts.pairs import balanced_clustering, balanced_pairs, balanced_robustness
from medi_monai.metrics import robustness_by_k
from medi_monai.results.diagnostics import ClusteringScore, RobustnessIndex


def robustness_by_loops(features, labels, centers, slides, pairs):
    """The definition, image by image: k of the best vote, averaged over pairs, then counts of all pairs."""
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    ranked = {}
    for number, rows in enumerate(pairs):
        for i in rows:
            others = [j for j in rows if slides[j] != slides[i]]
            ranked[number, i] = sorted(others, key=lambda j: np.linalg.norm(units[i] - units[j]))
    reach = min(map(len, ranked.values()))
    accuracies = {}
    for k in [1, 3, 5, 7, 9, *range(11, 600, 10)]:
        if k > reach:
            break
        of_pairs = []
        for number, rows in enumerate(pairs):
            votes = [np.bincount(labels[ranked[number, i][:k]]).argmax() for i in rows]
            of_pairs.append(balanced_accuracy_score(labels[rows], votes))
        accuracies[k] = np.mean(of_pairs)
    best = max(accuracies, key=lambda k: (round(accuracies[k], 12), -k))
    good = bad = 0
    for (_, i), others in ranked.items():
        good += sum(labels[j] == labels[i] and centers[j] != centers[i] for j in others[:best])
        bad += sum(labels[j] != labels[i] and centers[j] == centers[i] for j in others[:best])
    return good / (good + bad), best, accuracies[best]


def drawn_pairs(monkeypatch, labels, centers, **options):
    """The pairs of a run, so that loops can use the same ones."""
    seen, original = [], balanced_pairs
    monkeypatch.setattr(module, "balanced_pairs", lambda *args: seen.append(original(*args)) or seen[-1])
    return seen


@pytest.mark.parametrize("with_slides", [True, False])
def test_the_robustness_index_equals_loops(monkeypatch, with_slides):
    labels, centers, slides = grid(labels=2, centers=3, images=2, seed=1)
    features = np.hstack([readable(labels, 1.5), readable(centers, 1.5, seed=1)])
    seen = drawn_pairs(monkeypatch, labels, centers)
    index = balanced_robustness(features, labels, centers, slides if with_slides else None)
    units = slides if with_slides else np.arange(len(labels))
    value, k, accuracy = robustness_by_loops(features, labels, centers, units, seen[0])
    assert index.num_pairs == len(seen[0]) == 3 and index.n == sum(map(len, seen[0]))
    assert index.k == k > 1
    assert index.value == pytest.approx(value, abs=1e-9) and index.balanced_accuracy == pytest.approx(
        accuracy, abs=1e-9
    )


def test_k_is_the_one_of_the_best_votes_not_of_the_purest_neighbors():
    # the nearest neighbor is wrong for few images, and majorities are right for all; purity falls with k
    rng = np.random.default_rng(3)
    labels, centers = np.repeat([0, 1], 80), np.tile([0, 1], 80)
    features = np.eye(2)[labels] + 0.55 * rng.standard_normal((160, 2))
    index = balanced_robustness(features, labels, centers)
    by_k = robustness_by_k(features, labels, centers, [k for k in module.NEIGHBORS if k < 160])
    purest = max(by_k, key=lambda row: row["same_class"] / row["neighbors"])
    assert index.k != purest["k"]
    assert index.balanced_accuracy == max(row["balanced_accuracy"] for row in by_k) > purest["balanced_accuracy"]


def test_no_image_has_fewer_neighbors_than_k():
    labels, centers, slides = grid(labels=2, centers=2, patients=1, images=6)
    index = balanced_robustness(readable(labels, 3.0), labels, centers, slides)
    size = index.n // 4
    assert index.k <= index.n - size  # a slide is a whole cell


def test_features_of_the_class_are_robust_and_those_of_the_center_are_not():
    labels, centers, _ = grid()
    assert balanced_robustness(readable(labels, 0.2), labels, centers).value == 1
    assert balanced_robustness(readable(centers, 0.2), labels, centers).value == 0
    none = balanced_robustness(np.ones((40, 2)), np.zeros(40, int), np.arange(40) % 2)
    assert none == RobustnessIndex(None, None, 0, 0)


def test_pairs_are_balanced_and_all_there_are():
    labels, centers, _ = grid()
    labels = np.where((labels == 2) & (centers == 3), -1, labels)
    pairs = balanced_pairs(labels, centers, np.random.default_rng(0), 2000, 64)
    cells = []
    for rows in pairs:
        codes, counts = np.unique(np.stack([labels[rows], centers[rows]]), axis=1, return_counts=True)
        assert codes.shape == (2, 4) and np.ptp(counts) == 0 and len(np.unique(rows)) == len(rows)
        cells.append((tuple(np.unique(labels[rows])), tuple(np.unique(centers[rows]))))
    expected = [
        (two, at) for two in itertools.combinations(range(3), 2) for at in itertools.combinations(range(4), 2)
        if not (2 in two and 3 in at)
    ]  # fmt: skip
    assert cells == expected
    few = balanced_pairs(labels, centers, np.random.default_rng(0), 40, 5)
    assert len(few) == 5 and {len(rows) for rows in few} == {40}


def test_the_clustering_score_is_the_mean_over_repeats_and_pairs(monkeypatch):
    labels, centers, _ = grid(labels=2, centers=3, patients=2, images=8)
    features = np.hstack([readable(labels, 0.8), readable(centers, 0.8, seed=1)])
    seen, calls, original = drawn_pairs(monkeypatch, labels, centers), [], module._clusters

    def record(points, number, starts, rng):
        calls.append((number, starts, original(points, number, starts, rng), points))
        return calls[-1][2]

    monkeypatch.setattr(module, "_clusters", record)
    score = balanced_clustering(features, labels, centers, num_repeats=4)
    by_pair = [[call for call in calls[at : at + 33] if call[1] == 5] for at in range(0, len(calls), 33)]
    assert [len(of_pair) for of_pair in by_pair] == [4, 4, 4] and len(seen[0]) == 3
    expected = [
        np.mean([adjusted_rand_score(codes[rows], clusters) for _, _, clusters, _ in of_pair])
        for codes in (labels, centers)
        for rows, of_pair in zip(seen[0], by_pair)
    ]
    assert score.label_agreement == pytest.approx(np.mean(expected[:3]), abs=1e-9)
    assert score.center_agreement == pytest.approx(np.mean(expected[3:]), abs=1e-9)
    assert score.value == pytest.approx(np.mean(expected[:3]) - np.mean(expected[3:]), abs=1e-9)
    assert score.num_clusters == np.median([of_pair[0][0] for of_pair in by_pair])
    for at, of_pair in zip(range(0, len(calls), 33), by_pair):
        tried = {
            number: silhouette_score(points, clusters, metric="cosine")
            for number, starts, clusters, points in calls[at : at + 33]
            if starts == 20
        }
        assert list(tried) == list(range(2, 31)) and of_pair[0][0] == max(tried, key=tried.get)
    assert (score.num_pairs, score.n, score.num_repeats) == (3, sum(map(len, seen[0])), 4)


def test_more_dimensions_than_images_are_rotated_and_distances_stay():
    features = np.random.default_rng(0).standard_normal((12, 40))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    points = module._unit_rows(features)
    assert points.shape == (12, 12) and points @ points.T == pytest.approx(units @ units.T, abs=1e-12)


def test_clusters_follow_the_class_or_the_center():
    labels, centers, _ = grid(labels=2, centers=2)
    of_class = balanced_clustering(readable(labels, 0.2), labels, centers, num_repeats=2)
    assert of_class.label_agreement == 1 and of_class.num_clusters == 2 and of_class.value > 0.99
    assert balanced_clustering(readable(centers, 0.2), labels, centers, num_repeats=2).center_agreement == 1
    same = balanced_clustering(np.ones((len(labels), 3)), labels, centers, num_repeats=2)
    assert same.value == 0  # images that are all the same form one cluster
    none = balanced_clustering(np.ones((40, 2)), np.zeros(40, int), np.arange(40) % 2)
    assert none == ClusteringScore(None, num_repeats=50)
