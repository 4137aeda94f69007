"""What the tests of captioned images share: a cohort of a few squares of noise."""

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort import Cohort

#: caption, sex, age, rows
ROWS = [
    ("brain of a young man", "male", "young", 6),
    ("brain of an old man", "male", "old", 4),
    ("brain of a young woman", "female", "young", 2),
    ("brain of a young patient", "male", "young", 2),
    ("brain of an old patient", "female", "old", 2),
]


def write_captioned(root):
    """16 images of 16 px, the last two for validation."""
    rng, rows = np.random.default_rng(0), []
    for caption, sex, age, count in ROWS:
        for _ in range(count):
            name = f"{len(rows)}.png"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(root / name)
            rows.append((name, f"p{len(rows)}", caption, sex, age, "train" if len(rows) < 14 else "val"))
    table = pd.DataFrame(rows, columns=["image", "patient", "caption", "sex", "age", "split"], dtype="str")
    return Cohort(table.assign(slide=table["patient"], x="0", y="0", mpp="1.0"), root)
