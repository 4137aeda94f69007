import pandas as pd
import pytest

from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import check_arms, known_rows, read_arms, settings_that_differ
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, write_json, write_table
from medi_monai.utils.records import claim_results

COLUMNS = ["project_id", "center"]


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


def test_files_of_a_sampling_that_changed_since_are_refused_or_named(tmp_path, capsys):
    claim_results(tmp_path, "sampling")
    write_json(tmp_path / "sampling.json", {"seed": 0, RECORD: None})
    for name in ("images/A_n/00000.png", "images/A_n/00001.png"):
        with atomic_path(tmp_path / name) as path:
            path.write_bytes(b"of the run")
    (tmp_path / "images" / "A_n" / "mine.png").write_bytes(b"of the user")
    table = pd.DataFrame({"image": ["images/A_n/00000.png", "images/A_n/00001.png"], "project_id": "A", "center": "n"})
    write_table(tmp_path / "manifest.csv", table)
    assert read_arms({"x": tmp_path}, COLUMNS)["x"].settings == {"seed": 0}
    assert capsys.readouterr().out == ""
    (tmp_path / "images" / "A_n" / "00001.png").write_bytes(b"of the user")
    table.assign(center="s").to_csv(tmp_path / "manifest.csv", index=False)
    images = read_arms({"x": tmp_path}, COLUMNS)["x"]
    assert capsys.readouterr().out.startswith(f"warning: 2 files in {tmp_path} changed after a run wrote them, and are")
    (tmp_path / "sampling.json").write_text('{"seed": 1}')
    with pytest.raises(InputError, match="sampling.json was changed after a run wrote it.*restore it"):
        print(images.settings)


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
    with pytest.raises(InputError, match="1 row repeats an image in"):
        read_arms({"x": arm(tmp_path / "e", image=["0.png", "1.png", "0.png"])}, ["center"])
    (arm(tmp_path / "c") / "1.png").unlink()
    with pytest.raises(InputError, match=r"1 image of .* the first is 1.png"):
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
    with pytest.raises(InputError, match="1 patient is in several splits, the first, p, in 'train' and 'holdout'"):
        known_rows(Cohort(table, "."), ["center"])
    kept = known_rows(Cohort(table.assign(split=["train", "val", "excluded", "train"]), "."), ["center"])
    assert kept.table["image"].tolist() == ["a", "b", "d"]


@pytest.mark.parametrize("folder", [3, ["one", "two"], None])
def test_an_arm_is_one_folder(folder):
    with pytest.raises(InputError, match="for 'medi': give one folder"):
        read_arms({"medi": folder}, ["label"])


def test_what_differs_between_arms_is_told(tmp_path):
    arms = read_arms({"one": arm(tmp_path / "a"), "two": arm(tmp_path / "b", 4)}, ["center"])
    assert settings_that_differ(arms) == {"images": {"one": 3, "two": 4}}
    write_json(tmp_path / "a" / "sampling.json", {"checkpoint": "x", "steps": 20, "seed": 1})
    write_json(tmp_path / "b" / "sampling.json", {"checkpoint": "y", "steps": 50, "seed": 1})
    arms = read_arms({name: images.root for name, images in arms.items()}, ["center"])
    differ = settings_that_differ(arms)
    assert differ["steps"] == {"one": 20, "two": 50} and set(differ) == {"images", "steps"}


def sampled(folder, cohort, columns=COLUMNS, combinations=(("A", "South"),), record=True):
    """An arm with an image of each combination, of a model that was trained on a cohort."""
    folder.mkdir(exist_ok=True)
    names = [f"{number}.png" for number in range(len(combinations))]
    pd.DataFrame([(name, *key) for name, key in zip(names, combinations)], columns=["image", *COLUMNS]).to_csv(
        folder / "manifest.csv", index=False
    )
    for name in names:
        (folder / name).touch()
    trained_on = plain(TrainingRecord.of(cohort.split("train").table, columns, cohort.digest))
    write_json(folder / "sampling.json", {"seed": 0, **({RECORD: trained_on} if record else {})})
    return read_arms({"x": folder}, COLUMNS)["x"]


def other_split(cohort):
    """The same images, with (B, NA) held out instead of (A, South)."""
    held_out = (cohort.table["project_id"] == "B") & (cohort.table["center"] == "NA")
    return Cohort(cohort.table.assign(split=held_out.map({True: "holdout", False: "train"})), cohort.root)


def test_the_record_of_a_training_is_no_setting_of_the_sampling(tiny_cohort, tmp_path):
    arm = sampled(tmp_path, tiny_cohort)
    assert arm.settings == {"seed": 0} and arm.trained_on.cohort == tiny_cohort.digest


def test_the_cohort_of_the_training_is_no_finding_and_another_one_is(tiny_cohort, tmp_path):
    arms = {"medi": sampled(tmp_path, tiny_cohort)}
    assert check_arms(arms, tiny_cohort, COLUMNS) == []
    # other rows in training, the same combination held out
    fewer = Cohort(tiny_cohort.table.drop(index=0).reset_index(drop=True), tiny_cohort.root)
    (finding,) = check_arms(arms, fewer, COLUMNS)
    assert (finding.level, finding.name) == ("warning", "other_cohort") and "'medi'" in finding.text


def test_a_held_out_combination_that_was_in_training_is_refused(tiny_cohort, tmp_path):
    other = other_split(tiny_cohort)
    with pytest.raises(InputError, match=r"'medi' was trained on 1 of 1 combination .*B · NA: give --cohort_dir"):
        check_arms({"medi": sampled(tmp_path / "medi", tiny_cohort)}, other, COLUMNS)
    # a class-only model has seen the images of (B, NA), too
    arms = {"medi": sampled(tmp_path / "medi", other), "cls": sampled(tmp_path / "cls", tiny_cohort)}
    with pytest.raises(InputError, match="arm 'cls'"):
        check_arms(arms, other, COLUMNS)


def test_without_a_record_or_a_column_there_is_a_note(tiny_cohort, tmp_path):
    arms = {
        "old": sampled(tmp_path / "old", tiny_cohort, record=False),
        "cls": sampled(tmp_path / "cls", tiny_cohort, ["project_id"]),
    }
    findings = check_arms(arms, tiny_cohort, COLUMNS)
    assert [(finding.level, finding.figures["arm"]) for finding in findings] == [("note", "old"), ("note", "cls")]


def test_what_is_held_out_and_was_not_sampled_is_named(tiny_cohort, tmp_path):
    held_out = tiny_cohort.table["center"] == "South"
    cohort = Cohort(tiny_cohort.table.assign(split=held_out.map({True: "holdout", False: "train"})), tiny_cohort.root)
    arms = {name: sampled(tmp_path / name, cohort) for name in ("cls", "medi")}
    (finding,) = check_arms(arms, cohort, COLUMNS)
    assert finding.level == "warning" and finding.figures == {"arms": ["cls", "medi"], "absent": 2, "of": 3}
    assert finding.text.startswith(
        "2 of 3 combinations that the cohort holds out have no image in 'cls' and 'medi': B · South, C · South."
    )


def test_a_folder_of_any_generator_is_an_arm_of_which_the_training_is_not_known(tmp_path):
    (tmp_path / "theirs" / "fake").mkdir(parents=True)
    (tmp_path / "theirs" / "fake" / "1.jpg").touch()
    table = pd.DataFrame({"image": ["fake/1.jpg"], "project_id": ["A"], "center": ["n"], "prompt": ["a patch"]})
    table.to_csv(tmp_path / "theirs" / "manifest.csv", index=False)
    arms = read_arms({"theirs": tmp_path / "theirs"}, COLUMNS)
    assert arms["theirs"].settings == {} and arms["theirs"].trained_on is None and arms["theirs"].selection is None
    rows = {"image": "x.png", "project_id": ["A", "A"], "center": ["n", "s"], "split": ["holdout", "train"]}
    findings = check_arms(arms, Cohort(pd.DataFrame(rows), tmp_path), COLUMNS)
    assert [finding.name for finding in findings] == ["training_not_recorded"]
