"""Association of two categorical columns, computed from counts; it measures the strength of a shortcut."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from medi_monai.metrics.resampling import interval_around
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["contingency_table", "associate", "cramers_v", "mutual_information", "majority_rule"]

NUM_REPLICATES = 300
#: number of cells of bootstrap replicates held in memory at once
REPLICATED_CELLS = 2**22


def contingency_table(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Count how often each pair of label and value occurs.

    Args:
        labels: ``(N,)`` integer codes of the labels; pairs with a negative (missing) code are left out.
        values: ``(N,)`` integer codes of the values.

    Returns:
        ``(R, C)`` int64 counts, label by value, where R and C are the largest codes plus 1.
    """
    labels, values = np.asarray(labels), np.asarray(values)
    if labels.shape != values.shape or labels.ndim != 1:
        raise InputError(f"labels {labels.shape} and values {values.shape} must have the same length")
    rows, columns = (int(codes.max(initial=-1)) + 1 for codes in (labels, values))
    known = (labels >= 0) & (values >= 0)
    cells = labels[known].astype(np.int64) * columns + values[known]
    return np.bincount(cells, minlength=rows * columns).reshape(rows, columns)


def associate(table: np.ndarray, seed: int = 0) -> dict:
    """Compute all figures of this module for a contingency table, as JSON.

    Args:
        table: ``(R, C)`` counts of independent units (patients, not patches), label by value; empty rows and columns
            are left out.
        seed: seed of the bootstrap interval of ``cramers_v``.

    Returns:
        ``cramers_v`` and ``cramers_v_uncorrected`` (:func:`cramers_v`), ``normalized_mutual_information``,
        ``label_entropy``, ``conditional_entropy`` and ``uncertainty_removed`` (:func:`mutual_information`),
        ``majority_rule`` (:func:`majority_rule`), ``num_labels``, ``num_values`` and ``n``. Undefined figures are
        ``None``.
    """
    table = _without_empty(table)
    return {
        "n": int(table.sum()),
        "num_labels": table.shape[0],
        "num_values": table.shape[1],
        **cramers_v(table, seed),
        **mutual_information(table),
        "majority_rule": majority_rule(table),
    }


def cramers_v(table: np.ndarray, seed: int = 0) -> dict:
    """Compute bias-corrected Cramér's V with a 95% interval, and the uncorrected V.

    The uncorrected V of two independent columns is far from 0 for many cells with low counts: 0.16 for 32 classes,
    200 centers and 8,000 patients. ``cramers_v`` is corrected (W. Bergsma, A bias-correction for Cramér's V and
    Tschuprow's T, J. Korean Stat. Soc. 42, 2013). A drawback: if there are more values than labels and each value
    determines the label, the corrected V is slightly below 1, while the uncorrected V is exactly 1.

    The interval is a bootstrap over units of the squared V before truncation at 0, shifted by the mean of its
    replicates, because resampling a sparse table adds spurious association, so that the plain percentile interval never
    covers the true value. In simulations, coverage was 87 to 100% for tables up to 8 x 30 and 32 x 5, and at worst 73%
    for 32 x 200.

    Args:
        table: ``(R, C)`` counts of independent units, label by value.
        seed: seed of the bootstrap.

    Returns:
        ``cramers_v`` as ``{"value", "ci95", "n"}`` and ``cramers_v_uncorrected`` as ``{"value", "n"}``. The value is
        ``None`` if there is only one label or one value, or if every unit has a different value.
    """
    table = _without_empty(table)
    n, (rows, columns) = int(table.sum()), table.shape
    nothing = {"value": None, "ci95": None, "n": n}
    if min(rows, columns) < 2:
        return {"cramers_v": nothing, "cramers_v_uncorrected": {"value": None, "n": n}}
    cells = np.nonzero(table)
    counts = table[cells].astype(float)[None]
    uncorrected = {"value": _root(_phi_squared(counts, cells, table.shape)[0] / (min(rows, columns) - 1)), "n": n}
    squared = _corrected_v_squared(counts, cells, table.shape)[0]
    if not np.isfinite(squared):
        return {"cramers_v": nothing, "cramers_v_uncorrected": uncorrected}
    rng = np.random.default_rng(seed_from("association", seed))
    by_block = []
    for size in _block_sizes(counts.shape[1]):
        replicates = rng.multinomial(n, counts[0] / n, size=size).astype(float)
        by_block.append(_corrected_v_squared(replicates, cells, table.shape))
    # with too few defined replicates, the interval is uninformative: 0 to 1
    edges = interval_around(squared, np.concatenate(by_block)) or [0.0, 1.0]
    interval = [_root(edge) for edge in edges]
    return {
        "cramers_v": {"value": _root(squared), "ci95": interval, "n": n},
        "cramers_v_uncorrected": uncorrected,
    }


def _block_sizes(cells: int) -> list[int]:
    # replicates are drawn in blocks to limit memory; block size does not change the draws
    size = min(NUM_REPLICATES, max(1, REPLICATED_CELLS // cells))
    whole, remainder = divmod(NUM_REPLICATES, size)
    return [size] * whole + ([remainder] if remainder else [])


def mutual_information(table: np.ndarray) -> dict:
    """Compute how much information a value contains about the label, in bits and normalized.

    Args:
        table: ``(R, C)`` counts, label by value.

    Returns:
        ``normalized_mutual_information`` (by the arithmetic mean of both entropies), ``label_entropy`` H(label) and
        ``conditional_entropy`` H(label | value) in bits, ``uncertainty_removed`` = 1 - H(label | value) / H(label)
        (Theil's U), each as ``{"value", "n"}``. Figures are ``None`` without units, and ratios also if a column is
        constant. They are not corrected for chance: if most values have few units, they are high even without any
        association, so interpret them together with ``cramers_v`` and ``majority_rule``.
    """
    table = _without_empty(table)
    n = int(table.sum())
    label, value, joint = (_entropy(counts, n) for counts in (table.sum(1), table.sum(0), table.ravel()))
    shared = label + value - joint
    figures = {
        "normalized_mutual_information": _share(shared, (label + value) / 2) if min(table.shape) > 1 else None,
        "label_entropy": label if n else None,
        "conditional_entropy": max(0.0, joint - value) if n else None,
        "uncertainty_removed": _share(shared, label) if min(table.shape) > 1 else None,
    }
    return {name: {"value": figure, "n": n} for name, figure in figures.items()}


def majority_rule(table: np.ndarray) -> dict:
    """Compute the accuracy of a classifier that knows only the value and never sees an image.

    It predicts the most common label among the *other* units of the same value (leave-one-out, so that a value that
    occurs only once is uninformative), or of all other units if there are none. Ties share the vote. For independent
    columns, accuracy falls below ``chance``, because the unit itself is missing from the vote; interpret values below
    chance as no information.

    Args:
        table: ``(R, C)`` counts, label by value.

    Returns:
        ``accuracy``, to be compared with ``largest_class`` (the share of the most common label), and
        ``balanced_accuracy`` (the mean over labels), to be compared with ``chance`` (1 / R); and ``n``. All are
        ``None`` for fewer than two labels.
    """
    table = _without_empty(table)
    n, rows = int(table.sum()), len(table)
    if rows < 2:
        return {"accuracy": None, "balanced_accuracy": None, "largest_class": None, "chance": None, "n": n}
    totals = table.sum(1)
    (overall,), (vote,) = _votes(totals[:, None])
    winner, votes = _votes(table)
    alone = table.sum(0) == 1
    votes = np.where(alone, np.where(winner == overall, vote, 0.0), votes)
    right = np.bincount(winner, table[winner, np.arange(len(winner))] * votes, minlength=rows)
    return {
        "accuracy": float(right.sum() / n),
        "balanced_accuracy": float((right / totals).mean()),
        "largest_class": float(totals.max() / n),
        "chance": 1 / rows,
        "n": n,
    }


def _votes(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # the most common label of each column, and the share of the vote that it gets from the other units if one unit with
    # this label is left out; units with another label are always outvoted
    winner = table.argmax(0)
    columns = np.arange(table.shape[1])
    votes, others = table[winner, columns] - 1, table.copy()
    others[winner, columns] = -1
    best = others.max(0)
    tied = 1 / (1 + (others == best).sum(0))
    return winner, np.where(votes > best, 1.0, np.where(votes == best, tied, 0.0))


def _without_empty(table: np.ndarray) -> np.ndarray:
    table = np.asarray(table)
    if table.ndim != 2 or (table < 0).any():
        raise InputError(f"a contingency table needs two axes and non-negative counts; its shape is {table.shape}")
    return table[table.sum(1) > 0][:, table.sum(0) > 0]


def _phi_squared(counts: np.ndarray, cells: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    # chi squared / n = sum of n_ij^2 / (n_i n_j) - 1; counts are (B, cells), one row per replicate
    rows, columns = _margins(counts, cells, shape)
    expected = rows[:, cells[0]] * columns[:, cells[1]]
    return np.divide(counts**2, expected, out=np.zeros_like(counts), where=expected > 0).sum(1) - 1


def _corrected_v_squared(counts: np.ndarray, cells: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    n = counts[0].sum()
    rows, columns = ((margin > 0).sum(1) - 1.0 for margin in _margins(counts, cells, shape))
    surplus = _phi_squared(counts, cells, shape) - rows * columns / (n - 1)
    most = np.minimum(rows - rows**2 / (n - 1), columns - columns**2 / (n - 1))
    return np.divide(surplus, most, out=np.full_like(surplus, np.nan), where=most > 1e-12)


def _margins(counts: np.ndarray, cells: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    numbers = np.arange(counts.shape[1])
    ones = np.ones(len(numbers))
    return tuple(
        (csr_matrix((ones, (codes, numbers)), shape=(size, len(numbers))) @ counts.T).T
        for codes, size in zip(cells, shape)
    )


def _root(squared: float) -> float:
    return float(np.sqrt(np.clip(squared, 0, 1)))


def _entropy(counts: np.ndarray, n: int) -> float:
    shares = counts[counts > 0] / n if n else np.empty(0)
    return float((shares * -np.log2(shares)).sum())


def _share(numerator: float, denominator: float) -> float | None:
    return float(np.clip(numerator / denominator, 0, 1)) if denominator > 1e-12 else None
