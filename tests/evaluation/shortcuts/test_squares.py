import numpy as np
import pandas as pd
import pytest
from feature_grids import grid
from scipy.stats.contingency import association

from medi_monai.evaluation.shortcuts.pairs import balanced_robustness
from medi_monai.evaluation.shortcuts.squares import correlated_rows, find_squares, outside_rows
from medi_monai.utils.errors import InputError


def test_squares_share_no_cell_and_their_parts_no_patient():
    labels, centers, patients = grid()
    known = patients % 6 < 2
    squares = find_squares(labels, centers, patients, known)
    assert len(squares) == 3 - 1  # three labels: pairs of labels share one, pairs of centers two
    cells = [(square.labels[i], square.centers[j]) for square in squares for i in (0, 1) for j in (0, 1)]
    assert len(set(cells)) == len(cells)
    for square in squares:
        rows_of_use = [np.concatenate(list(by_cell.values())) for by_cell in (square.train, square.val, square.test)]
        people = [set(patients[rows]) for rows in rows_of_use]
        assert not people[0] & people[1] and not people[0] & people[2] and not people[1] & people[2]
        assert sum(map(len, people)) == 4 * 6 and [len(patients_of_use) for patients_of_use in people] == [8, 4, 12]
        for (i, j), rows in square.train.items():
            assert set(labels[rows]) == {square.labels[i]} and set(centers[rows]) == {square.centers[j]}
        assert not known[rows_of_use[2]].any()
        assert square.size == min(len(rows) for rows in square.train.values())
    sizes = [square.size for square in squares]
    assert sizes == sorted(sizes, reverse=True)


def test_the_largest_square_is_that_of_brute_force_and_the_order_of_rows_does_not_matter():
    labels, centers, patients = grid(seed=3)
    order = np.lexsort((patients, centers, labels))
    squares = find_squares(labels[order], centers[order], patients[order], np.zeros(len(order), bool), min_images=2)
    again = np.random.default_rng(0).permutation(len(order))
    other = find_squares(labels[again], centers[again], patients[again], np.zeros(len(order), bool), min_images=2)
    for square, shuffled in zip(squares, other):
        assert (square.labels, square.centers) == (shuffled.labels, shuffled.centers)
        assert set(patients[order][square.test[0, 0]]) == set(patients[again][shuffled.test[0, 0]])


def test_a_patient_of_two_classes_is_on_one_side():
    labels, centers, patients = grid(labels=2, centers=2, patients=8)
    patients = np.where(labels == 1, patients - 16, patients)  # the same patients have both classes
    (square,) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    people = [
        set(patients[np.concatenate(list(by_cell.values()))]) for by_cell in (square.train, square.val, square.test)
    ]
    assert not people[0] & people[2] and not people[0] & people[1] and not people[1] & people[2]


def test_rows_of_no_split_and_small_cells_make_no_square():
    labels, centers, patients = grid(labels=2, centers=2)
    none = np.zeros(len(labels), bool)
    assert find_squares(np.where(labels == 1, -1, labels), centers, patients, none) == []
    assert find_squares(np.full(4, -1), np.zeros(4, int), np.arange(4), none[:4]) == []
    assert find_squares(labels, centers, patients, none, min_images=1000) == []
    single = np.where((labels == 1) & (centers == 1), 0, patients)
    assert find_squares(labels, centers, single, none) == []


def test_many_classes_and_centers_most_of_them_empty():
    rng = np.random.default_rng(0)
    cells = rng.choice(32 * 185, 600, replace=False)
    code = np.repeat(cells, 100)
    patients = np.unique(code * 10 + np.tile(np.arange(100) // 10, 600), return_inverse=True)[1]
    squares = find_squares(code // 185, code % 185, patients, np.zeros(len(code), bool))
    assert len(squares) == 4 and all(square.size == 40 for square in squares)
    index = balanced_robustness(
        rng.standard_normal((len(code), 3)), code // 185, code % 185, max_images=40, max_pairs=9
    )
    assert index.num_pairs == 9 and index.n == 9 * 40


@pytest.mark.parametrize("correlation", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_class_and_center_are_correlated_as_asked_with_equal_margins(correlation):
    labels, centers, patients = grid(labels=2, centers=2, patients=10)
    (square,) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    train, val, test = correlated_rows(square, correlation, 20, np.random.default_rng(0))
    table = pd.crosstab(labels[train], centers[train]).to_numpy()
    assert table.sum(0).tolist() == table.sum(1).tolist() == [40, 40]
    assert association(table) == pytest.approx(correlation, abs=1e-9)
    assert len(np.unique(train)) == len(train)
    held = pd.crosstab(labels[val], centers[val]).to_numpy()
    assert association(held) == pytest.approx(correlation, abs=0.1) and np.ptp(held.sum(0)) == np.ptp(held.sum(1)) == 0
    assert np.ptp(pd.crosstab(labels[test], centers[test]).to_numpy()) == 0 and len(np.unique(test)) == len(test)
    assert not set(patients[train]) & set(patients[test]) and not set(patients[train]) & set(patients[val])


def test_patients_of_training_are_resampled_and_those_of_the_test_are_not():
    labels, centers, patients = grid(labels=2, centers=2, patients=10)
    (square,) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    draws = [
        [correlated_rows(square, level, 20, np.random.default_rng(seed), patients)[0] for level in (0.0, 1.0)]
        for seed in range(40)
    ]
    for low, high in draws:
        # counts stay, and what one level has of a cell, the other one has of it too
        assert association(pd.crosstab(labels[low], centers[low]).to_numpy()) == pytest.approx(0, abs=1e-9)
        assert set(patients[low[labels[low] == centers[low]]]) <= set(patients[high])
    # 4 patients of a cell: of 4 drawn with replacement, 4 (1 - 0.75^4) are different ones
    cell = square.train[0, 0]
    num = len(np.unique(patients[cell]))
    different = [len(np.unique(patients[high[np.isin(high, cell)]])) for _, high in draws]
    assert np.mean(different) == pytest.approx(num * (1 - (1 - 1 / num) ** num), abs=0.3)
    whole = correlated_rows(square, 0.5, 20, np.random.default_rng(0))
    drawn = correlated_rows(square, 0.5, 20, np.random.default_rng(0), patients)
    assert np.array_equal(whole[2], drawn[2])


def test_levels_of_one_draw_share_their_test_and_a_small_cell_repeats_images():
    labels, centers, patients = grid(labels=2, centers=2)
    (square,) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    low, high = (correlated_rows(square, level, 10, np.random.default_rng(5)) for level in (0.0, 0.9))
    assert np.array_equal(low[2], high[2]) and len(np.intersect1d(low[0], high[0])) == 22
    many = correlated_rows(square, 1.0, 200, np.random.default_rng(0))[0]
    assert np.bincount(labels[many]).tolist() == [400, 400] and len(np.unique(many)) < 800
    with pytest.raises(InputError, match="between 0 and 1"):
        correlated_rows(square, 1.1, 10, np.random.default_rng(0))


def test_the_test_at_other_centers_has_both_classes_alike_and_no_patient_of_training():
    labels, centers, patients = grid(labels=3, centers=5)
    labels = np.where((labels == 0) & (centers == 4), -1, labels)  # a center with one of the classes
    (square, *_) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    moved = np.where((centers == 3) & (patients % 6 == 0), square_patient(square, patients), patients)
    rows = outside_rows(square, labels, centers, moved, np.random.default_rng(0))
    table = pd.crosstab(labels[rows], centers[rows])
    shared = [
        center for center in set(range(5)) - set(square.centers)
        if all(((labels == label) & (centers == center)).any() for label in square.labels)
    ]  # fmt: skip
    assert table.index.tolist() == list(square.labels) and table.columns.tolist() == shared
    assert (table.iloc[0] == table.iloc[1]).all() and len(np.unique(rows)) == len(rows)
    used = np.concatenate([*square.train.values(), *square.val.values()])
    assert not set(moved[rows]) & set(moved[used]) and set(patients[centers == 3]) & set(patients[rows])
    usable = ~np.isin(moved, moved[used])
    for center in shared:
        sizes = [((labels == label) & (centers == center) & usable).sum() for label in square.labels]
        assert table[center].iloc[0] == min(sizes)
    few = outside_rows(square, labels, centers, patients, np.random.default_rng(0), max_images=12)
    assert len(few) == 2 * len(shared) * (12 // (2 * len(shared)))


def square_patient(square, patients):
    return patients[square.train[0, 0][0]]


def test_without_another_center_there_is_no_test_there():
    labels, centers, patients = grid(labels=2, centers=2)
    (square,) = find_squares(labels, centers, patients, np.zeros(len(labels), bool))
    assert outside_rows(square, labels, centers, patients, np.random.default_rng(0)).tolist() == []
