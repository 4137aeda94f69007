"""Counts against a linear program, an optimizer and all distributions of small numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from medi_monai.cohort.plans.fill import exact_total, fill

MANY = 10**9
GROUPS = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 60), min_size=size, max_size=size),
        st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any),
        st.lists(st.integers(0, 5), min_size=size, max_size=size),
        st.lists(st.integers(0, 50), min_size=size, max_size=size),
        st.integers(0, 200),
    )
)


def divergence(shares, counts):
    counts = np.maximum(counts, 1e-12)
    wanted = shares > 0
    return float((shares[wanted] * np.log(shares[wanted] / (counts / counts.sum())[wanted])).sum())


@settings(max_examples=200, deadline=None)
@given(GROUPS)
def test_counts_keep_their_bounds_and_their_total_and_level_the_ratios(groups):
    have, weights, low, extra, total = (np.array(column) for column in groups)
    shares, high = weights / weights.sum(), low + extra
    counts = fill(have, shares, int(total), low, high)
    assert (counts >= low).all() and (counts <= np.where(shares > 0, high, low)).all()
    reachable = low.sum(), high[shares > 0].sum() + low[shares <= 0].sum()
    assert counts.sum() == np.clip(total, *reachable)
    # an image moved from one group to another never levels the ratios of images to shares by more than its rounding
    for giver, taker in itertools.permutations(np.flatnonzero(shares > 0), 2):
        if counts[giver] > low[giver] and counts[taker] < high[taker]:
            before = (have[giver] + counts[giver] - 1) / shares[giver]
            after = (have[taker] + counts[taker] + 1) / shares[taker]
            assert before <= after + 1e-6 * max(1.0, after)


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_before_rounding_no_distribution_diverges_less_from_the_target(groups):
    have, weights, low, extra, total = (np.array(column, float) for column in groups)
    shares, high = weights / weights.sum(), low + extra
    total = float(np.clip(total, low.sum(), high[shares > 0].sum() + low[shares <= 0].sum()))
    counts = fill(have, shares, int(total), low, high)
    bounds = [(least, most if share > 0 else least) for least, most, share in zip(low, high, shares)]
    best = minimize(
        lambda added: divergence(shares, have + added), counts + 0.0, bounds=bounds,
        constraints={"type": "eq", "fun": lambda added: added.sum() - total}, method="SLSQP",
    )  # fmt: skip
    # each count is at most one image from that of a continuous optimum, if it has one
    if best.success and (have + counts)[shares > 0].min() > 3:
        slack = 2 * len(have) / (have + counts)[shares > 0].min()
        assert divergence(shares, have + counts) <= best.fun + slack**2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.data())
def test_the_smallest_size_is_that_of_the_linear_program(have, data):
    weights = np.array(data.draw(st.lists(st.integers(1, 20), min_size=len(have), max_size=len(have))))
    shares, have = weights / weights.sum(), np.array(have)
    # minimize the sum of the images added, with have + added = shares * size
    solution = linprog(
        np.r_[np.ones(len(have)), 0], A_eq=np.c_[np.eye(len(have)), -shares], b_eq=-have, bounds=(0, None)
    )
    size = exact_total(have, shares)
    assert size == math.ceil(solution.x[-1] - 1e-6)
    counts = fill(have, shares, size - have.sum(), np.zeros(len(have), int), np.full(len(have), MANY))
    assert (np.abs(have + counts - shares * size) < 1).all()


def test_a_group_that_the_target_excludes_makes_it_unreachable():
    assert exact_total(np.array([3, 2]), np.array([1.0, 0.0])) is None
    assert exact_total(np.array([3, 0]), np.array([1.0, 0.0])) == 3


@pytest.mark.parametrize("total", [0, 1, 7, 100])
def test_equal_shares_of_nothing_are_largest_remainders(total):
    counts = fill(np.zeros(7), np.ones(7), total, np.zeros(7), np.full(7, MANY))
    assert counts.tolist() == [total // 7 + (index < total % 7) for index in range(7)]


def test_the_minimum_ratio_is_the_largest_of_all_distributions():
    have, weights = [5, 0, 2], [1, 2, 3]
    counts = fill(np.array(have), np.array(weights) / 6, 9, np.zeros(3), np.full(3, MANY))
    best = max(
        min((real + added) / weight for real, added, weight in zip(have, way, weights))
        for way in itertools.product(range(10), repeat=3)
        if sum(way) == 9
    )
    assert min((real + added) / weight for real, added, weight in zip(have, counts, weights)) == best
