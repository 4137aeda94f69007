"""Features of patients on a grid of classes and centers, for tests of shortcut diagnostics."""

import numpy as np


def grid(labels=3, centers=4, patients=6, images=10, seed=0):
    """Labels, centers and patients of the images: 10 to 17 of each patient, who has one class and one center."""
    rng = np.random.default_rng(seed)
    rows = [
        (label, center, (label * centers + center) * patients + patient)
        for label in range(labels)
        for center in range(centers)
        for patient in range(patients)
        for _ in range(images + rng.integers(0, 8))
    ]
    return tuple(np.array(rows).T)


def readable(column, noise, seed=0):
    """Features that show a column, with noise."""
    rng = np.random.default_rng(seed)
    return np.eye(int(column.max()) + 1)[column] * 3 + noise * rng.standard_normal((len(column), column.max() + 1))
