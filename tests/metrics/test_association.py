import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats.contingency import association as scipy_association
from sklearn.metrics import normalized_mutual_info_score

from medi_monai.metrics.association import (
    associate,
    contingency_table,
    cramers_v,
    majority_rule,
    mutual_information,
)
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
TABLES = {
    "2 x 2": np.array([[12, 5], [3, 20]]),
    "2 x 5": RNG.integers(1, 30, (2, 5)),
    "6 x 3, sparse": RNG.integers(0, 3, (6, 3)) + np.eye(6, 3, dtype=int),
    "8 x 40, sparse": RNG.poisson(0.7, (8, 40)) + np.eye(8, 40, dtype=int),
}
every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def units_of(table):
    """One label and one value per unit."""
    labels, values = np.nonzero(table)
    return np.repeat(labels, table[labels, values]), np.repeat(values, table[labels, values])


def full(table):
    return table[table.sum(1) > 0][:, table.sum(0) > 0]


@every_table
def test_a_table_from_codes_equals_pandas(table):
    labels, values = units_of(table)
    order = RNG.permutation(len(labels))
    counted = contingency_table(labels[order], values[order])
    crossed = pd.crosstab(labels, values).reindex(index=range(len(table)), columns=range(table.shape[1]), fill_value=0)
    assert np.array_equal(counted, crossed)


def test_missing_codes_are_left_out():
    counted = contingency_table(np.array([0, 1, -1, 1, -1]), np.array([1, -1, 0, 0, -1]))
    assert counted.tolist() == [[0, 1], [1, 0]]
    assert contingency_table(np.array([], int), np.array([], int)).shape == (0, 0)


def test_codes_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="same length"):
        contingency_table(np.zeros(3, int), np.zeros(4, int))


@every_table
def test_the_uncorrected_v_equals_scipys(table):
    figure = cramers_v(table)["cramers_v_uncorrected"]
    assert figure["value"] == pytest.approx(scipy_association(full(table), method="cramer"))
    assert figure["n"] == table.sum()


@every_table
def test_the_corrected_v_equals_bergsmas_formula(table):
    observed, n = full(table), table.sum()
    chi_squared = stats.chi2_contingency(observed, correction=False)[0]
    r, k = observed.shape
    phi = max(0, chi_squared / n - (r - 1) * (k - 1) / (n - 1))
    r, k = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    assert cramers_v(table)["cramers_v"]["value"] == pytest.approx(math.sqrt(phi / min(r - 1, k - 1)))


def test_the_correction_takes_away_what_chance_makes():
    tables = [contingency_table(*np.random.default_rng(seed).integers(0, [[30], [80]], (2, 2000))) for seed in range(5)]
    figures = [cramers_v(table) for table in tables]
    assert min(figure["cramers_v_uncorrected"]["value"] for figure in figures) > 0.15
    assert max(figure["cramers_v"]["value"] for figure in figures) < 0.06


@pytest.mark.parametrize("strength", [0, 0.3, 0.7])
@pytest.mark.parametrize(("rows", "columns", "n"), [(2, 5, 300), (6, 20, 800)])
def test_the_interval_holds_the_truth_as_often_as_it_says(rows, columns, n, strength):
    """The truth is the V of the distribution that the units are drawn from."""
    rng = np.random.default_rng(rows)
    independent = np.outer(rng.dirichlet(np.full(rows, 5)), rng.dirichlet(np.full(columns, 5)))
    dependent = independent * rng.gamma(0.3, size=independent.shape)
    shares = (1 - strength) * independent + strength * dependent / dependent.sum()
    expected = np.outer(shares.sum(1), shares.sum(0))
    truth = math.sqrt(((shares - expected) ** 2 / expected).sum() / (min(rows, columns) - 1))
    held = 0
    for _ in range(60):
        low, high = cramers_v(rng.multinomial(n, shares.ravel()).reshape(rows, columns))["cramers_v"]["ci95"]
        held += low - 1e-12 <= truth <= high + 1e-12
    assert held >= 50


def test_a_value_that_decides_the_label():
    table = np.kron(np.eye(3, dtype=int), np.full((1, 2), 20))
    association = associate(table)
    assert association["cramers_v_uncorrected"]["value"] == pytest.approx(1)
    assert 0.98 < association["cramers_v"]["value"] <= 1
    assert association["conditional_entropy"]["value"] == pytest.approx(0)
    assert association["uncertainty_removed"]["value"] == pytest.approx(1)
    assert association["majority_rule"]["balanced_accuracy"] == 1


@every_table
def test_mutual_information_equals_scikit_learns_and_entropy_equals_scipys(table):
    labels, values = units_of(table)
    figures = mutual_information(table)
    label = stats.entropy(np.bincount(labels), base=2)
    within = [(values == value).mean() * stats.entropy(np.bincount(labels[values == value]), base=2)
              for value in set(values)]  # fmt: skip
    expected = {
        "normalized_mutual_information": normalized_mutual_info_score(labels, values, average_method="arithmetic"),
        "label_entropy": label,
        "conditional_entropy": sum(within),
        "uncertainty_removed": 1 - sum(within) / label,
    }
    assert {name: figure["value"] for name, figure in figures.items()} == pytest.approx(expected)


@every_table
def test_the_majority_rule_equals_a_loop_over_units(table):
    labels, values = units_of(table)
    right = []
    for unit in range(len(labels)):
        others = np.arange(len(labels)) != unit
        alike = others & (values == values[unit])
        votes = np.bincount(labels[alike if alike.any() else others], minlength=len(table))
        winners = np.flatnonzero(votes == votes.max())
        right.append((labels[unit] in winners) / len(winners))
    rule = majority_rule(table)
    assert rule["accuracy"] == pytest.approx(np.mean(right))
    assert rule["balanced_accuracy"] == pytest.approx(pd.Series(right).groupby(labels).mean().mean())
    assert rule["largest_class"] == pytest.approx(np.bincount(labels).max() / len(labels))
    assert rule["chance"] == pytest.approx(1 / len(full(table)))


def test_the_interval_does_not_depend_on_how_many_replicates_are_held(monkeypatch):
    table = TABLES["8 x 40, sparse"]
    expected = cramers_v(table)
    for cells in (1, 40 * np.count_nonzero(table)):
        monkeypatch.setattr("medi_monai.metrics.association.REPLICATED_CELLS", cells)
        assert cramers_v(table) == expected


def test_the_majority_rule_of_many_labels_takes_no_time():
    labels = np.arange(20_000)
    table = np.zeros((20_000, 20), int)
    table[labels, labels % 20] = 1
    table[0, 0] = 5
    start = time.perf_counter()
    rule = majority_rule(table)
    assert time.perf_counter() - start < 2
    # each of the first label's five units is outvoted by none; all others are
    assert rule["accuracy"] == pytest.approx(5 / 20_004)


def test_values_that_occur_once_teach_nothing():
    association = associate(np.eye(5, dtype=int))
    assert association["majority_rule"]["accuracy"] == 0
    assert association["cramers_v"] == {"value": None, "ci95": None, "n": 5}


@pytest.mark.parametrize("table", [np.zeros((0, 0), int), np.zeros((3, 2), int), [[4, 5]], [[4], [0]]])
def test_what_is_undefined_is_none(table):
    association = associate(np.asarray(table))
    assert association["n"] == np.sum(table)
    for name in ("cramers_v", "cramers_v_uncorrected", "normalized_mutual_information", "uncertainty_removed"):
        assert association[name]["value"] is None and association[name]["n"] == np.sum(table)
    assert association["majority_rule"]["accuracy"] is None


@every_table
def test_figures_are_json_and_depend_on_the_seed_alone(table):
    assert json.loads(json.dumps(associate(table), allow_nan=False)) == associate(table)
    other = associate(table, seed=1)
    assert other["cramers_v"]["value"] == associate(table)["cramers_v"]["value"]
    assert other["cramers_v"]["ci95"] != associate(table)["cramers_v"]["ci95"]


@every_table
def test_empty_rows_and_columns_do_not_count(table):
    padded = np.pad(table, 2)
    assert associate(padded) == associate(table)


@pytest.mark.parametrize("table", [np.zeros(3), [[1, -1], [2, 3]]])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(InputError, match="contingency table"):
        associate(np.asarray(table))
