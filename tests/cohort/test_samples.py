import pandas as pd
import pytest

from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import known_rows, read_arms, settings_that_differ
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_json


def arm(folder, images=3, **columns):
    folder.mkdir(exist_ok=True)
    names = [f"{n}.png" for n in range(images)]
    for name in names:
        (folder / name).touch()
    table = pd.DataFrame({"image": names, "project_id": "A", "center": "n"}).assign(**columns)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder


def test_manifests_are_read_by_name(tmp_path):
    arms = read_arms({"one": arm(tmp_path / "a"), "two": arm(tmp_path / "b", 5)}, ["project_id", "center"])
    assert {name: len(images) for name, images in arms.items()} == {"one": 3, "two": 5}
    assert arms["one"].root == tmp_path / "a"


def test_arms_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(InputError, match="no arms to compare"):
        read_arms({}, ["center"])
    with pytest.raises(InputError, match="absent contains no manifest.csv"):
        read_arms({"x": tmp_path / "absent"}, ["center"])
    with pytest.raises(InputError, match="does not specify 'center'"):
        read_arms({"x": arm(tmp_path / "a", center=["n", "", "s"])}, ["center"])
    with pytest.raises(InputError, match="race"):
        read_arms({"x": arm(tmp_path / "b")}, ["race"])
    with pytest.raises(InputError, match="cannot be named 'floor'"):
        read_arms({"floor": arm(tmp_path / "d")}, ["center"], ("real", "floor"))
    with pytest.raises(InputError, match="1 rows of .* repeat an image"):
        read_arms({"x": arm(tmp_path / "e", image=["0.png", "1.png", "0.png"])}, ["center"])
    (arm(tmp_path / "c") / "1.png").unlink()
    with pytest.raises(InputError, match=r"1 images .* the first is 1.png"):
        read_arms({"x": tmp_path / "c"}, ["center"])


def test_rows_of_no_split_no_value_or_no_patient_are_left_out(capsys):
    table = pd.DataFrame(
        {
            "image": list("abcdef"),
            "patient": ["1", "2", None, "4", "5", "6"],
            "split": ["train", "excluded", "val", "holdout", "train", "train"],
            "center": ["x", "x", "x", "", "y", "x"],
        }
    )
    known = known_rows(Cohort(table, "."), ["center"])
    assert known.table["image"].tolist() == ["a", "e", "f"] and "2 images" in capsys.readouterr().out
    with pytest.raises(InputError, match="has a value in all of"):
        known_rows(Cohort(table.assign(center=None), "."), ["center"])


def test_a_column_named_twice_is_refused():
    table = pd.DataFrame({"image": list("ab"), "patient": list("pq"), "center": "x", "split": "train"})
    with pytest.raises(InputError, match="'center' is named twice"):
        known_rows(Cohort(table, "."), ["label", "center", "center"])


def test_a_patient_of_two_splits_is_refused_unless_one_is_left_out():
    table = pd.DataFrame({"image": list("abcd"), "patient": list("pqpr"), "center": "x"})
    table["split"] = ["train", "val", "holdout", "train"]
    with pytest.raises(InputError, match="1 patients are in several splits, the first, p, in 'train' and 'holdout'"):
        known_rows(Cohort(table, "."), ["center"])
    kept = known_rows(Cohort(table.assign(split=["train", "val", "excluded", "train"]), "."), ["center"])
    assert kept.table["image"].tolist() == ["a", "b", "d"]


def test_what_differs_between_arms_is_told(tmp_path):
    arms = read_arms({"one": arm(tmp_path / "a"), "two": arm(tmp_path / "b", 4)}, ["center"])
    assert settings_that_differ(arms) == {"images": {"one": 3, "two": 4}}
    write_json(tmp_path / "a" / "sampling.json", {"checkpoint": "x", "steps": 20, "seed": 1})
    write_json(tmp_path / "b" / "sampling.json", {"checkpoint": "y", "steps": 50, "seed": 1})
    arms = read_arms({name: images.root for name, images in arms.items()}, ["center"])
    differ = settings_that_differ(arms)
    assert differ["steps"] == {"one": 20, "two": 50} and set(differ) == {"images", "steps"}
