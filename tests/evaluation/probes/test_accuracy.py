import numpy as np
from feature_grids import grid, readable

from medi_monai.evaluation.probes import probe_accuracy
from medi_monai.results.measures import ProbeAccuracy


def test_what_is_in_the_features_is_read_on_other_patients_and_what_is_not_is_at_chance():
    labels, centers, patients = grid()
    accuracy = probe_accuracy(readable(centers, 0.1), centers, patients, [0.1, 1.0])
    assert accuracy == ProbeAccuracy(1.0, n=len(centers), chance=0.25, num_values=4)
    noise = np.random.default_rng(0).standard_normal((len(centers), 5))
    assert abs(probe_accuracy(noise, centers, patients, [0.01, 1.0]).value - 0.25) < 0.08
    # what gives a patient away gives nothing of the center of another patient
    marks = np.random.default_rng(1).standard_normal((patients.max() + 1, 30))[patients]
    assert probe_accuracy(marks, centers, patients, [0.01, 1.0]).value < 0.5


def test_a_value_with_one_patient_is_not_counted_and_one_value_has_no_figure():
    labels, centers, patients = grid()
    merged = np.where(centers == 3, patients.max(), patients)
    accuracy = probe_accuracy(readable(centers, 0.1), centers, merged, [1.0])
    assert accuracy.num_values == 3 and accuracy.chance == 1 / 3 and accuracy.n == (centers < 3).sum()
    for codes, people in ((np.zeros(50, int), np.arange(50)), (np.arange(50) % 2, np.zeros(50, int))):
        none = probe_accuracy(np.ones((50, 2)), codes, people, [1.0])
        assert none.value is None and none.chance is None and none.n == 0
