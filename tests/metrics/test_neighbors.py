import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from medi_monai.metrics import neighbors
from medi_monai.metrics.neighbors import (
    nearest_neighbors,
    neighbor_pairs,
    precision_recall,
    ranked_neighbors,
    robustness_by_k,
    robustness_index,
)
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
REAL, GENERATED = RNG.normal(size=(40, 6)), RNG.normal(0.7, 0.8, (33, 6))


def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK", 7)
    monkeypatch.setattr(neighbors, "REFERENCES", 5)


def distance(x, y):
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y)))


def neighbors_by_loops(queries, references, k, exclude_self=False):
    nearest = []
    for row, query in enumerate(queries):
        ranked = sorted(
            (distance(query, reference), other)
            for other, reference in enumerate(references)
            if not (exclude_self and other == row)
        )
        nearest.append(ranked[:k])
    return nearest


def precision_recall_by_loops(real, generated, k):
    radius = [ranked[-1][0] for ranked in neighbors_by_loops(real, real, k, exclude_self=True)]
    radius_generated = [ranked[-1][0] for ranked in neighbors_by_loops(generated, generated, k, exclude_self=True)]
    n, m = len(real), len(generated)
    within = [[distance(real[i], generated[j]) <= radius[i] for j in range(m)] for i in range(n)]
    reached = [[distance(real[i], generated[j]) <= radius_generated[j] for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(within[i][j] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(reached[i]) for i in range(n)) / n,
        "density": sum(within[i][j] for i in range(n) for j in range(m)) / (k * m),
        "coverage": sum(any(within[i]) for i in range(n)) / n,
    }


def robustness_by_loops(features, labels, centers, k, slides=None, cosine=True):
    rows = [row / (math.sqrt(sum(row * row)) or 1) if cosine else row for row in features]
    good = bad = 0
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i and (slides is None or slides[i] != slides[j])]
        for j in sorted(others, key=lambda j: distance(rows[i], rows[j]))[:k]:
            if any(column[at] is None for column in (labels, centers) for at in (i, j)):
                continue
            good += labels[i] == labels[j] and centers[i] != centers[j]
            bad += labels[i] != labels[j] and centers[i] == centers[j]
    return good, bad


@pytest.mark.parametrize("blocks", ["one", "small"])
@pytest.mark.parametrize("k", [1, 4, 33])
def test_neighbors_equal_loops(monkeypatch, blocks, k):
    if blocks == "small":
        small_blocks(monkeypatch)
    distances, rows = nearest_neighbors(REAL, GENERATED, k)
    expected = neighbors_by_loops(REAL, GENERATED, k)
    assert rows.tolist() == [[row for _, row in ranked] for ranked in expected]
    assert distances.numpy() == pytest.approx(np.array([[d for d, _ in ranked] for ranked in expected]), rel=1e-12)


@pytest.mark.parametrize("blocks", ["one", "small"])
def test_a_row_is_no_neighbor_of_itself(monkeypatch, blocks):
    if blocks == "small":
        small_blocks(monkeypatch)
    distances, rows = nearest_neighbors(REAL, REAL, 39, exclude_self=True)
    expected = neighbors_by_loops(REAL, REAL, 39, exclude_self=True)
    assert rows.tolist() == [[row for _, row in ranked] for ranked in expected]
    assert nearest_neighbors(REAL, REAL, 1)[1].flatten().tolist() == list(range(40))


def test_neighbors_equal_scikit_learns_far_from_the_origin():
    offset = RNG.normal(0, 1e4, 6)
    model = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(GENERATED + offset)
    expected, rows = model.kneighbors(REAL + offset)
    nearest = nearest_neighbors(REAL + offset, GENERATED + offset, 5)
    assert np.array_equal(nearest[1], rows)
    assert nearest[0].numpy() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("blocks", ["one", "small"])
@pytest.mark.parametrize("offset", [0, 1e3])
def test_of_equals_the_earlier_row_is_taken(monkeypatch, blocks, offset):
    """On a grid most distances occur many times, and rounding must not choose."""
    if blocks == "small":
        small_blocks(monkeypatch)
    grid = np.random.default_rng(1).permutation(np.stack(np.meshgrid(*[[0.0, 1, 2]] * 4)).reshape(4, -1).T)
    _, rows = nearest_neighbors(grid + offset, grid + offset, 11, exclude_self=True)
    exact = ((grid[:, None] - grid) ** 2).sum(2)
    np.fill_diagonal(exact, np.inf)
    assert np.array_equal(rows, np.argsort(exact, axis=1, kind="stable")[:, :11])


def test_equal_rows_are_at_distance_0_and_near_ones_are_not():
    rows = RNG.normal(size=(50, 2048)) + 30
    distances, nearest = nearest_neighbors(rows.astype(np.float32), rows.astype(np.float32))
    assert (distances == 0).all() and nearest.flatten().tolist() == list(range(50))
    shifted = rows.copy()
    shifted[:, 0] += 1e-3
    assert nearest_neighbors(shifted, rows)[0].numpy() == pytest.approx(np.full((50, 1), 1e-3), rel=1e-4)


def test_memory_mapped_references_of_single_precision(tmp_path, monkeypatch):
    small_blocks(monkeypatch)
    np.save(tmp_path / "references.npy", GENERATED.astype(np.float32))
    mapped = np.load(tmp_path / "references.npy", mmap_mode="r")
    assert torch.equal(nearest_neighbors(REAL, mapped, 3)[1], nearest_neighbors(REAL, GENERATED, 3)[1])


@pytest.mark.parametrize("blocks", ["one", "small"])
@pytest.mark.parametrize("k", [1, 3, 5, 32])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_precision_recall_density_and_coverage_equal_loops(monkeypatch, blocks, k, shift):
    if blocks == "small":
        small_blocks(monkeypatch)
    figures = precision_recall(REAL, GENERATED + shift, k)
    assert figures == pytest.approx(precision_recall_by_loops(REAL, GENERATED + shift, k), rel=1e-12)


@pytest.mark.parametrize("k", [1, 5])
def test_images_on_the_edge_of_a_ball_lie_within(k):
    """Copies of the real images lie on the edges exactly, which rounding must not move."""
    real = RNG.normal(size=(60, 512)) + 20
    figures = precision_recall(real, real[::-1].copy(), k)
    assert figures == pytest.approx({"precision": 1, "recall": 1, "density": (k + 1) / k, "coverage": 1}, rel=1e-12)
    grid = np.stack(np.meshgrid(*[[0.0, 1, 2]] * 3)).reshape(3, -1).T
    assert precision_recall(grid + 100, grid[::2] + 100, k) == pytest.approx(
        precision_recall_by_loops(grid, grid[::2], k)
    )


def test_sets_with_repeated_images():
    repeated = np.repeat(REAL[:10], 4, axis=0)
    assert precision_recall(repeated, REAL, 3) == pytest.approx(precision_recall_by_loops(repeated, REAL, 3))
    constant = np.ones((8, 3))
    assert precision_recall(constant, constant, 3)["precision"] == 1
    assert precision_recall(constant, constant + 1, 3) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_collapse_costs_recall_and_noise_costs_precision():
    collapsed = REAL[:1] + RNG.normal(0, 0.01, (40, 6))
    assert precision_recall(REAL, collapsed)["precision"] > 0.9 > 0.2 > precision_recall(REAL, collapsed)["recall"]
    assert precision_recall(REAL, RNG.normal(0, 10, (40, 6)))["precision"] < 0.2


LABELS = np.array(list("abc"), object)[RNG.integers(0, 3, 40)]
CENTERS = RNG.integers(0, 4, 40).astype(object)
SLIDES = np.array([f"s{number}" for number in RNG.integers(0, 9, 40)])


@pytest.mark.parametrize("slides", [None, SLIDES], ids=["all", "other slides"])
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("k", [1, 6, 20])
def test_the_robustness_index_equals_loops(slides, cosine, k):
    index = robustness_index(REAL, LABELS, CENTERS, k, slides, cosine)
    good, bad = robustness_by_loops(REAL, LABELS, CENTERS, k, slides, cosine)
    assert (index["value"], index["n"]) == (good / (good + bad), 40)
    assert (index["same_class_other_center"], index["other_class_same_center"]) == (good, bad)
    assert good <= index["same_class"] <= index["neighbors"] - bad <= 40 * k - bad


@pytest.mark.parametrize("slides", [None, SLIDES], ids=["all", "other slides"])
def test_several_k_are_those_of_one_k_each_and_votes_equal_loops(slides):
    ks = [1, 2, 3, 7, 30]
    rows = robustness_by_k(REAL, LABELS, CENTERS, ks, slides)
    assert rows == [robustness_index(REAL, LABELS, CENTERS, k, slides) for k in ks]
    units = REAL / np.linalg.norm(REAL, axis=1, keepdims=True)
    for row, k in zip(rows, ks):
        right = {name: [] for name in "abc"}
        for i in range(40):
            others = [j for j in range(40) if j != i and (slides is None or slides[i] != slides[j])]
            votes = [LABELS[j] for j in sorted(others, key=lambda j: distance(units[i], units[j]))[:k]]
            # ties go to the class that occurs first among the images
            right[LABELS[i]].append(max(dict.fromkeys(LABELS), key=votes.count) == LABELS[i])
        expected = sum(sum(hits) / len(hits) for hits in right.values()) / 3
        assert row["balanced_accuracy"] == pytest.approx(expected, abs=1e-12) and row["k"] == k
    with pytest.raises(InputError, match=r"\[3, 3\]: give at least one, in ascending order"):
        robustness_by_k(REAL, LABELS, CENTERS, [3, 3])


def test_neighbors_are_ranked_and_those_of_the_same_slide_left_out():
    ranked = ranked_neighbors(REAL, 39, SLIDES)
    units = REAL / np.linalg.norm(REAL, axis=1, keepdims=True)
    for i in range(40):
        others = [j for j in range(40) if SLIDES[j] != SLIDES[i]]
        expected = sorted(others, key=lambda j: distance(units[i], units[j]))
        assert ranked[i].tolist() == expected + [-1] * (39 - len(expected))


def test_pairs_of_neighbors_are_counted_by_the_units_of_both():
    ranked, patients = ranked_neighbors(REAL, 6, SLIDES), RNG.integers(0, 11, 40)
    good, bad = neighbor_pairs(ranked, LABELS, CENTERS, patients, 12)
    expected = np.zeros((2, 12, 12))
    for i, j in zip(np.repeat(np.arange(40), 6), ranked.ravel()):
        if j < 0:
            continue
        same_class, same_center = LABELS[i] == LABELS[j], CENTERS[i] == CENTERS[j]
        if same_class != same_center:
            expected[int(same_center), patients[i], patients[j]] += 1
    np.testing.assert_array_equal(good.toarray(), expected[0])
    np.testing.assert_array_equal(bad.toarray(), expected[1])
    index = robustness_index(REAL, LABELS, CENTERS, 6, SLIDES)
    assert good.sum() == index["same_class_other_center"] and bad.sum() == index["other_class_same_center"]


def test_missing_classes_and_centers_count_for_neither():
    labels, centers = LABELS.copy(), CENTERS.copy()
    labels[::5], centers[3::7] = None, None
    good, bad = robustness_by_loops(REAL, labels, centers, 6)
    index = robustness_index(REAL, labels, centers, 6)
    assert (index["same_class_other_center"], index["other_class_same_center"]) == (good, bad)


def test_features_of_biology_or_of_the_center_alone():
    label, center = np.repeat([0, 1, 2], 20), np.tile([0, 1], 30)
    noise = RNG.normal(0, 0.01, (60, 3))
    assert robustness_index(np.eye(3)[label] + noise, label, center, 19)["value"] == 1
    assert robustness_index(np.eye(3)[center] + noise, label, center, 29)["value"] == 0


def test_an_image_with_fewer_neighbors_from_other_slides_has_that_many():
    slides = np.array(["large"] * 35 + ["small"] * 5)
    index = robustness_index(REAL, LABELS, CENTERS, 10, slides)
    good, bad = robustness_by_loops(REAL, LABELS, CENTERS, 10, slides)
    assert (index["same_class_other_center"], index["other_class_same_center"]) == (good, bad)


def test_an_undefined_index_is_nan_with_its_counts():
    for slides in (None, ["one"] * 40):
        index = robustness_index(REAL, ["a"] * 40, ["x"] * 40, 5, slides)
        assert math.isnan(index.pop("value"))
        assert (index["same_class_other_center"], index["other_class_same_center"], index["n"]) == (0, 0, 40)


def test_features_of_length_0_are_no_error():
    assert robustness_index(np.zeros((6, 2)), list("aabbcc"), list("xyxyxy"), 2)["n"] == 6


def test_mistakes_are_one_error():
    for k in (0, 40):
        with pytest.raises(InputError, match=f"{k} nearest neighbors cannot be found among 39"):
            nearest_neighbors(REAL, REAL, k, exclude_self=True)
        with pytest.raises(InputError, match=f"{k} nearest neighbors cannot be found among 39"):
            robustness_index(REAL, LABELS, CENTERS, k)
    with pytest.raises(InputError, match="and 33 references"):
        nearest_neighbors(REAL, GENERATED, 1, exclude_self=True)
    for function in (nearest_neighbors, precision_recall):
        with pytest.raises(InputError, match="of 6 and 5 dimensions"):
            function(REAL, GENERATED[:, :5])
        with pytest.raises(InputError, match="33 of 33 images"):
            function(REAL, GENERATED * np.nan)
    for k in (0, 33):
        with pytest.raises(InputError, match=f"k = {k}, .* 40 real and 33 generated"):
            precision_recall(REAL, GENERATED, k)
    with pytest.raises(InputError, match="39 classes, centers or slides do not match 40"):
        robustness_index(REAL, LABELS[1:], CENTERS, 3)


def test_no_query_has_no_neighbors():
    distances, rows = nearest_neighbors(np.ones((0, 3)), np.ones((5, 3)), 2)
    assert distances.shape == rows.shape == (0, 2)
