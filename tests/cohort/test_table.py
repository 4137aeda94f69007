import pandas as pd
import pytest

from medi_monai.cohort import Cohort
from medi_monai.cohort.table import SPLITS, require_columns
from medi_monai.utils.errors import InputError


def table_of(splits=("train", "val", "holdout", "excluded")):
    """One row per split, with cells that careless programs change."""
    count = len(splits)
    return pd.DataFrame(
        {
            "image": [f"patches/s{number}/patch_0_0.png" for number in range(count)],
            "slide": [f"s{number}" for number in range(count)],
            "patient": [f"0{number}" for number in range(count)],
            "tumor": ["NA", "01", "", "1e5"][:count],
            "split": list(splits),
        }
    )


@pytest.mark.parametrize("name", ["cohort.csv", "cohort.parquet"])
def test_cells_survive_writing_and_reading(tmp_path, name):
    table = table_of()
    if name.endswith(".csv"):
        assert Cohort(table, tmp_path).write() == tmp_path / name
    else:
        table.to_parquet(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        cohort = Cohort.read(path)
        assert cohort.root == tmp_path and len(cohort) == 4
        assert cohort.table.to_dict("list") == table.to_dict("list")


def test_a_folder_without_a_cohort_is_named_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="preparing") as caught:
        Cohort.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("content", "says"), [("", "empty"), ("image,slide,patient,split\n", "no row")])
def test_an_empty_cohort_is_named(tmp_path, content, says):
    (tmp_path / "cohort.csv").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        Cohort.read(tmp_path)
    assert str(tmp_path / "cohort.csv") in str(caught.value)


@pytest.mark.parametrize("column", ["image", "slide", "patient", "split"])
def test_a_lacking_column_is_named_with_the_nearest_one(tmp_path, column):
    table_of().rename(columns={column: f"{column}_id"}).to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(InputError, match=f"'{column}'.*did you mean '{column}_id'") as caught:
        Cohort.read(tmp_path)
    assert str(tmp_path / "cohort.csv") in str(caught.value)


def test_an_unknown_split_is_named_with_the_nearest_one(tmp_path):
    Cohort(table_of(["train", "holdot"]), tmp_path).write()
    with pytest.raises(InputError, match="'holdot'.*did you mean 'holdout'"):
        Cohort.read(tmp_path)


def test_split_takes_its_rows_in_order_and_renumbers_them(tmp_path):
    cohort = Cohort(table_of(["val", "train", "holdout", "train"]), tmp_path)
    splits = cohort.split("train", "holdout")
    assert splits.table["slide"].tolist() == ["s1", "s2", "s3"] and splits.table.index.tolist() == [0, 1, 2]
    assert splits.root == tmp_path and len(cohort) == 4
    assert sum(len(cohort.split(name)) for name in SPLITS) == 4
    assert len(cohort.split("excluded")) == 0


def test_split_refuses_a_name_that_is_none(tmp_path):
    with pytest.raises(InputError, match="'training'.*did you mean 'train'"):
        Cohort(table_of(), tmp_path).split("training")


def test_required_columns_are_checked_in_order():
    require_columns(table_of(), ["image", "tumor"], "a table")
    with pytest.raises(InputError, match="'tumour'.*'tumor'.*It is expected in a table") as caught:
        require_columns(table_of(), ["image", "tumour", "zzz"], "a table")
    assert "zzz" not in str(caught.value)


def test_a_long_table_is_written_as_parquet_and_is_the_same_cohort(tmp_path, monkeypatch):
    cohort = Cohort(table_of(), tmp_path)
    assert cohort.write().name == "cohort.csv"
    short = Cohort.read(tmp_path)
    monkeypatch.setattr("medi_monai.cohort.table.MAX_CSV_ROWS", 3)
    assert cohort.write() == tmp_path / "cohort.parquet"
    # one of the two lies there, or nobody would know which counts
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.parquet"]
    long = Cohort.read(tmp_path)
    assert long.table.to_dict("list") == short.table.to_dict("list") == cohort.table.to_dict("list")
    assert long.digest == short.digest == cohort.digest
    monkeypatch.undo()
    assert cohort.write().name == "cohort.csv" and not (tmp_path / "cohort.parquet").exists()


def test_the_digest_is_one_of_all_cells_and_of_nothing_else(tmp_path):
    table = pd.DataFrame({"image": ["a", "b"], "slide": "s", "patient": "p", "split": "train"})
    digest = Cohort(table, tmp_path).digest
    assert digest == Cohort(table.copy(), tmp_path / "elsewhere").digest
    assert digest != Cohort(table.assign(patient=["p", "q"]), tmp_path).digest
    assert digest != Cohort(table[::-1], tmp_path).digest
