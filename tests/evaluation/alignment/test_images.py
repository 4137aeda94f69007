import numpy as np

from medi_monai.evaluation.alignment.images import target_rows


def test_real_rows_are_drawn_in_the_shares_of_the_target():
    codes = np.array([0] * 90 + [1] * 12 + [-1] * 5)
    rows = target_rows(codes, np.array([0.75, 0.25]), np.arange(len(codes)))
    assert np.bincount(codes[rows]).tolist() == [36, 12] and len(set(rows.tolist())) == 48
    assert (codes[target_rows(codes, np.array([1.0, 0.0]), np.arange(len(codes)))] == 0).sum() == 90
    assert len(target_rows(np.zeros(5, int), np.array([0.5, 0.5]), np.arange(5))) == 0
