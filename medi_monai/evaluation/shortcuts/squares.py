"""Squares of two classes at two centers: training and test sets as center and class become correlated."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from medi_monai.cohort.groups import rows_by_group
from medi_monai.metrics.resampling import draw_patients
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["Square", "correlated_rows", "find_squares", "outside_rows", "rows_of_cells"]

#: maximum number of test images at other centers
MAX_OUTSIDE = 2000


@dataclass(frozen=True)
class Square:
    """Two classes that both occur at two centers, with training, validation and test images in all four cells.

    Args:
        labels: two class codes.
        centers: two center codes.
        train: row numbers by cell, ``(label, center)`` as indices 0 and 1.
        val: row numbers by cell, of other patients, or of the same patient if a cell has only one for training.
        test: row numbers by cell, of patients that are not in ``train`` or ``val`` of any cell.
    """

    labels: tuple[int, int]
    centers: tuple[int, int]
    train: dict[tuple[int, int], np.ndarray]
    val: dict[tuple[int, int], np.ndarray]
    test: dict[tuple[int, int], np.ndarray]

    @property
    def size(self) -> int:
        """Number of training images available in every cell."""
        return min(len(rows) for rows in self.train.values())


def find_squares(
    labels: np.ndarray,
    centers: np.ndarray,
    patients: np.ndarray,
    known: np.ndarray,
    max_squares: int = 4,
    min_images: int = 16,
    seed: int = 0,
) -> list[Square]:
    """Find pairs of classes and centers whose correlation can be set to any value, largest first.

    The patients of every cell are divided in half; those in ``known``, on whom a generative model was trained, go to
    the training half first, so that tests contain as few of them as possible. A patient with several cells is in the
    same half in all of them. A fifth of the patients of each training half, at least one, is used for validation.

    Args:
        labels: ``(N,)`` class codes; rows with negative codes are left out.
        centers: ``(N,)`` center codes.
        patients: ``(N,)`` integer codes of patients.
        known: ``(N,)`` whether an image belongs to the training split.
        max_squares: maximum number of squares, which have no cell in common.
        min_images: minimum number of images per cell for training, and for testing.
        seed: seed of the division.
    """
    rows_of = _splits_of_cells(labels, centers, patients, known, seed)
    cells = {cell: use for cell, use in rows_of.items() if len(use[1]) and min(len(use[0]), len(use[2])) >= min_images}
    centers_of: dict[int, list[int]] = {}
    for label, center in sorted(cells):
        centers_of.setdefault(label, []).append(center)
    candidates = []
    for two_labels in itertools.combinations(sorted(centers_of), 2):
        shared = sorted(set(centers_of[two_labels[0]]) & set(centers_of[two_labels[1]]))
        smallest = {center: min(len(cells[label, center][0]) for label in two_labels) for center in shared}
        for two_centers in itertools.combinations(shared, 2):
            size = min(smallest[center] for center in two_centers)
            candidates.append((-size, two_labels, two_centers))
    chosen: list[Square] = []
    taken: set[tuple[int, int]] = set()
    for _, two_labels, two_centers in sorted(candidates):
        # corner (0 or 1, 0 or 1) to (label, center)
        corners = {
            (row, column): (label, center)
            for row, label in enumerate(two_labels)
            for column, center in enumerate(two_centers)
        }
        if not taken & set(corners.values()) and len(chosen) < max_squares:
            by_use = [{corner: cells[cell][use] for corner, cell in corners.items()} for use in range(3)]
            chosen.append(Square(two_labels, two_centers, *by_use))
            taken |= set(corners.values())
    return chosen


def rows_of_cells(labels: np.ndarray, centers: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Return the rows of every class at every center, ascending; rows with a negative label are left out.

    Args:
        labels: ``(N,)`` class codes.
        centers: ``(N,)`` center codes.
    """
    num_centers = int(centers.max(initial=0)) + 1
    known = np.flatnonzero(labels >= 0)
    groups = rows_by_group(labels[known] * num_centers + centers[known])
    return {divmod(code, num_centers): known[rows] for code, rows in enumerate(groups) if len(rows)}


def _splits_of_cells(
    labels: np.ndarray, centers: np.ndarray, patients: np.ndarray, known: np.ndarray, seed: int
) -> dict[tuple[int, int], list[np.ndarray]]:
    # rows of training, validation and test by cell
    cells = rows_of_cells(labels, centers)
    if not cells:
        return {}
    use_of = np.full(int(patients.max()) + 1, -1)
    for cell, rows in cells.items():
        _deal(use_of, rows, patients, known, np.random.default_rng(seed_from("square", seed, *cell)))
    rows_of = {}
    for cell, rows in cells.items():
        by_use = [rows[use_of[patients[rows]] == number] for number in range(3)]
        if len(by_use[0]) > 1 and not len(by_use[1]):
            # only one patient for training: a fifth of the images serves as in-domain validation
            lent = np.random.default_rng(seed_from("square images", seed, *cell)).permutation(len(by_use[0]))
            cut = max(1, len(lent) // 5)
            by_use[:2] = [by_use[0][np.sort(lent[cut:])], by_use[0][np.sort(lent[:cut])]]
        rows_of[cell] = by_use
    return rows_of


def _deal(
    use_of: np.ndarray, rows: np.ndarray, patients: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> None:
    # assign patients to training (0), validation (1) or test (2); those assigned by an earlier cell stay where they are
    names, first = np.unique(patients[rows], return_index=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(~known[rows[first[order]]], kind="stable")]
    half = (len(names) + 1) // 2 if len(names) > 1 else 0
    num_val = max(1, half // 5) if half > 1 else 0
    wanted = np.array([half - num_val, num_val, len(names) - half])
    wanted -= np.bincount(use_of[names][use_of[names] >= 0], minlength=3)
    for name in names[order]:
        if use_of[name] < 0:
            use = next((number for number in range(3) if wanted[number] > 0), 2)
            use_of[name] = use
            wanted[use] -= 1


def correlated_rows(
    square: Square, correlation: float, per_cell: int, rng: np.random.Generator, patients: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw training and validation rows with a given correlation of class and center, and balanced test rows.

    Every class and every center has ``2 * per_cell`` training images at any correlation; Cramér's V of the two columns
    equals the correlation, up to rounding. With the same ``rng``, draws for two correlations share as many rows as
    possible, and have the same test rows.

    Args:
        square: cells to draw from.
        correlation: from 0 (independent) to 1 (the center determines the class).
        per_cell: training images per cell at correlation 0; images are repeated in cells that have too few.
        rng: random generator of the draw.
        patients: ``(N,)`` codes of the patients of all rows: the patients of each training cell are then resampled
            first, so that draws differ as those of other patients would. None: all of them are used.

    Returns:
        Row numbers of training, validation and test, the last with the same number from each cell.
    """
    if not 0 <= correlation <= 1:
        raise InputError(f"correlation = {correlation}: must be between 0 and 1")
    least = min(len(rows) for rows in square.test.values())
    test = [rng.choice(rows, least, replace=False) for rows in square.test.values()]
    cells = square.train
    if patients is not None:
        cells = {cell: rows[draw_patients(patients[rows], rng)] for cell, rows in cells.items()}
    train = _correlated(cells, correlation, per_cell, rng)
    val = _correlated(square.val, correlation, max(1, min(map(len, square.val.values())) // 2), rng)
    return train, val, np.concatenate(test)


def _correlated(
    cells: dict[tuple[int, int], np.ndarray], correlation: float, per_cell: int, rng: np.random.Generator
) -> np.ndarray:
    with_center = round(per_cell * (1 + correlation))
    counts = {True: with_center, False: 2 * per_cell - with_center}
    by_cell = []
    for (label, center), rows in cells.items():
        wanted, order = counts[label == center], rng.permutation(rows)
        by_cell.append(np.resize(order, wanted) if wanted else order[:0])
    return np.concatenate(by_cell)


def outside_rows(
    square: Square,
    labels: np.ndarray,
    centers: np.ndarray,
    patients: np.ndarray,
    rng: np.random.Generator,
    max_images: int = MAX_OUTSIDE,
) -> np.ndarray:
    """Draw the out-of-domain test of a square: its two classes at other centers, of patients who do not train it.

    PathoROB (arXiv 2507.17845) tests on all images of a fixed list of other centers. Here, these are all other centers
    that have both classes, and each gives the same number of images of both (drawn with ``rng``), so that the center of
    a test image says nothing about its class.

    Args:
        square: classes and centers in training.
        labels: ``(N,)`` class codes; rows with negative codes are left out.
        centers: ``(N,)`` center codes.
        patients: ``(N,)`` integer codes of patients.
        rng: random generator of the draw.
        max_images: maximum number of images, at least one of each class at each center.

    Returns:
        Row numbers; none if no other center has both classes.
    """
    used = np.concatenate([patients[rows] for part in (square.train, square.val) for rows in part.values()])
    usable = np.isin(labels, square.labels) & ~np.isin(centers, square.centers) & ~np.isin(patients, used)
    cells = rows_of_cells(np.where(usable, labels, -1), centers)
    first, second = square.labels
    shared = sorted(center for label, center in cells if label == first and (second, center) in cells)
    pairs = [(cells[first, center], cells[second, center]) for center in shared]
    most = max(1, max_images // (2 * max(1, len(pairs))))
    chosen = [np.empty(0, np.int64)]
    for pair in pairs:
        count = min(most, *map(len, pair))
        chosen += [rng.choice(rows, count, replace=False) for rows in pair]
    return np.concatenate(chosen)
