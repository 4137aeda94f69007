import random

import pandas as pd

from medi_monai.cohort.tables import clean_cells
from medi_monai.schema import MISSING_WORDS


def test_cleaning_equals_that_of_each_cell_alone():
    draw = random.Random(0)
    texts = ["white", " white", "Not Reported", "'--", "NA", "01", "", "  ", "asian ", "n/a", "None"]
    cells = pd.Series(draw.choices(texts, k=400), index=draw.sample(range(999), 400), name="race", dtype="str")
    words = [*MISSING_WORDS, "N/A"]
    cleaned = clean_cells(cells, words)
    assert cleaned.name == "race" and cleaned.index.tolist() == cells.index.tolist()
    assert cleaned.tolist() == [
        "" if text.strip().lower() in ("", "n/a", *MISSING_WORDS) else text.strip() for text in cells.tolist()
    ]
    assert clean_cells(cells).tolist() == clean_cells(cells, MISSING_WORDS).tolist() != cleaned.tolist()
    assert clean_cells(cells, ()).tolist() == cells.str.strip().tolist()
