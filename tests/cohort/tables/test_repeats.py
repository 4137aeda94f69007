import pandas as pd
from PIL import Image

from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.tables.repeats import REPEATS, contradictions, repeats


def test_rows_that_repeat_and_rows_that_contradict():
    rows = pd.DataFrame(
        {"image": ["a", "b", "a", "c", "b"], "sex": ["F", "F", "F", "M", "M"], "age": ["1", "2", "1", "3", "2"]}
    )
    assert repeats(rows).tolist() == [False, False, True, False, False]
    kept = rows[~repeats(rows)]
    assert contradictions(kept).tolist() == [
        "",
        "several rows of the table name this image, with different sex",
        "",
        "several rows of the table name this image, with different sex",
    ]
    assert contradictions(kept.iloc[[0, 2]]).tolist() == ["", ""]


def test_a_doubled_row_is_used_once(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    cells = {"No": ["1", "2", "3"], "image": ["a.png", "b.png", "a.png"], "patient": ["P", "Q", "P"]}
    pd.DataFrame(cells | {"tumor": ["x", "y", "x"]}).to_csv(tmp_path / "t.csv", index=False)
    rows = ImageTable(tmp_path, "t.csv", "tumor", columns={"slide": None}).rows()
    assert rows.set_index("row")["problem"].to_dict() == {0: "", 1: "", 2: REPEATS}
