import random

import pandas as pd

from medi_monai.cohort.tables import clean_cells
from medi_monai.schema import is_missing


def test_cleaning_equals_that_of_each_cell_alone():
    draw = random.Random(0)
    texts = ["white", " white", "Not Reported", "'--", "NA", "01", "", "  ", "asian ", "n/a", "None"]
    cells = pd.Series(draw.choices(texts, k=400), index=draw.sample(range(999), 400), name="race", dtype="str")
    cleaned = clean_cells(cells, ["N/A"])
    assert cleaned.name == "race" and cleaned.index.tolist() == cells.index.tolist()
    assert cleaned.tolist() == [
        "" if is_missing(text) or text.strip().lower() == "n/a" else text.strip() for text in cells.tolist()
    ]
