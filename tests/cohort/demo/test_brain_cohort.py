import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort.demo.brain import Brain, View, draw_slice
from medi_monai.cohort.demo.brain_cohort import brain_dataset, brain_patient_table, make_brain_cohort
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table

SETTINGS = {"num_patients": 20, "slices_per_patient": 3, "image_size": 32}


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_brain_cohort(tmp_path_factory.mktemp("cohort"), **SETTINGS)


def test_the_table_has_the_columns_of_a_real_cohort_and_every_file(cohort):
    table = read_table(cohort / "slices.csv")
    assert list(table) == ["image", "patient", "slice", "sex", "age", "lesion", "modality"]
    assert len(table) == 60 and table["image"].is_unique
    assert sorted(table["image"]) == sorted(f"slices/{path.name}" for path in (cohort / "slices").iterdir())
    for name in table["image"]:
        with Image.open(cohort / name) as image:
            assert (image.mode, image.size) == ("L", (32, 32))


def test_a_patient_keeps_to_one_row_of_attributes_and_has_slices_that_differ(cohort):
    table, truth = read_table(cohort / "slices.csv"), pd.read_csv(cohort / "truth.csv")
    tumor_of_patient = table.groupby("patient")
    assert (tumor_of_patient[["sex", "age", "lesion"]].nunique() == 1).all(axis=None)
    assert (tumor_of_patient["slice"].agg(list).map(lambda numbers: numbers == ["1", "2", "3"])).all()
    assert len({(cohort / name).read_bytes() for name in table["image"]}) == len(table)
    levels = truth["level"].to_numpy().reshape(-1, 3)
    assert (np.diff(levels, axis=1) > 0.3).all() and np.abs(levels).max() <= 1
    # the head of a patient stays as it is
    assert (truth.groupby(table["patient"])[["axis_ratio", "skull", "ventricle"]].nunique() == 1).all(axis=None)


def test_every_slice_can_be_drawn_again_from_the_truth(cohort):
    truth = pd.read_csv(cohort / "truth.csv", keep_default_na=False, float_precision="round_trip")
    table = read_table(cohort / "slices.csv")
    assert list(truth["image"]) == list(table["image"])
    assert (truth[["sex", "lesion"]] == table[["sex", "lesion"]]).all(axis=None)
    assert (truth["age"].astype(float) == table["age"].astype(float)).all()
    for row in truth.iloc[::7].to_dict("records"):
        drawn = {}
        for kind, seed in ((Brain, row["brain_seed"]), (View, row["view_seed"])):
            fields = {name: row[name] for name in kind.__dataclass_fields__ if name != "seed"}
            drawn[kind] = kind(seed=seed, **{key: _number(value) for key, value in fields.items()})
        assert np.array_equal(draw_slice(drawn[Brain], drawn[View], 32), np.asarray(Image.open(cohort / row["image"])))


def _number(cell):
    try:
        return float(cell) if cell != "" else float("nan")
    except ValueError:
        return cell


@pytest.mark.parametrize("fraction", [0.8, 0.5, 0.3, 0.0, 1.0])
@pytest.mark.parametrize("num_patients", [1, 7, 240, 1001])
def test_the_part_of_men_is_exact_in_all_and_in_every_lesion_and_range_of_ages(fraction, num_patients):
    table = brain_patient_table(num_patients, fraction)
    men = (table["sex"] == "male").sum()
    assert abs(men - fraction * num_patients) <= 0.5 + 1e-9
    for _, same in table.sort_values("age").groupby("lesion"):
        for first in range(0, len(same), 25):
            in_range = same[(same["age"] >= same["age"].iloc[first]) & (same["age"] < same["age"].iloc[first] + 20)]
            # a range of ages may end within the patients of one year
            assert abs((in_range["sex"] == "male").sum() - fraction * len(in_range)) < 1 + 2


def test_ages_are_even_and_half_of_the_patients_have_a_lesion_on_either_side():
    table = brain_patient_table(700)
    assert dict(table["lesion"].value_counts()) == {"absent": 350, "left": 175, "right": 175}
    assert table["age"].min() == 20 and table["age"].max() == 90
    counts = np.histogram(table["age"], bins=np.arange(20, 91, 10))[0][:-1]
    assert np.abs(counts - 700 * 10 / 71).max() <= 2
    assert table["patient"].is_unique
    # patients are not numbered by their age
    assert abs(np.corrcoef(np.arange(700), table["age"])[0, 1]) < 0.2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_patients(cohort, tmp_path):
    again = make_brain_cohort(tmp_path / "again", **SETTINGS)
    assert contents(again) == contents(cohort)
    other = make_brain_cohort(tmp_path / "other", seed=1, **SETTINGS)
    ours, theirs = pd.read_csv(cohort / "truth.csv"), pd.read_csv(other / "truth.csv")
    assert not set(ours["brain_seed"]) & set(theirs["brain_seed"])
    assert not set(read_table(cohort / "slices.csv")["patient"]) & set(read_table(other / "slices.csv")["patient"])


def test_an_interrupted_cohort_is_gone_on_with(cohort, tmp_path):
    whole = make_brain_cohort(tmp_path, **SETTINGS)
    before = contents(whole)
    missing = sorted((whole / "slices").iterdir())[4]
    kept = sorted((whole / "slices").iterdir())[5]
    stamp = kept.stat().st_mtime_ns
    missing.unlink()
    (whole / "slices.csv").unlink()
    make_brain_cohort(tmp_path, **SETTINGS)
    assert contents(whole) == before == contents(cohort)
    assert kept.stat().st_mtime_ns == stamp


def test_a_folder_holds_one_cohort(tmp_path):
    make_brain_cohort(tmp_path, num_patients=2, image_size=16)
    with pytest.raises(InputError, match="different male_fraction, image_size"):
        make_brain_cohort(tmp_path, num_patients=2, male_fraction=0.5, image_size=32)


def test_the_reference_is_balanced_and_has_other_patients(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path))
    size = {"num_patients": 12, "slices_per_patient": 1, "image_size": 16}
    skewed, reference = brain_dataset(**size), brain_dataset(balanced=True, **size)
    assert {skewed.parent, reference.parent} == {tmp_path} and skewed != reference
    tables = [read_table(root / "slices.csv") for root in (skewed, reference)]
    assert [(table["sex"] == "male").sum() for table in tables] == [10, 6]
    assert not set(tables[0]["patient"]) & set(tables[1]["patient"])
    truths = [pd.read_csv(root / "truth.csv")["brain_seed"] for root in (skewed, reference)]
    assert not set(truths[0]) & set(truths[1])
    stamp = (skewed / "slices.csv").stat().st_mtime_ns
    assert brain_dataset(**size) == skewed and (skewed / "slices.csv").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_patients": 0}, "num_patients must be at least 1"),
        ({"slices_per_patient": 0}, "slices_per_patient must be at least 1"),
        ({"male_fraction": 80}, "between 0 and 1"),
        ({"male_fraction": float("nan")}, "between 0 and 1"),
        ({"image_size": 8}, "at least 16"),
    ],
)
def test_what_is_not_allowed_is_named_before_anything_is_written(setting, message, tmp_path):
    with pytest.raises(InputError, match=message):
        make_brain_cohort(tmp_path / "new", **setting)
    assert not (tmp_path / "new").exists()
