"""Choosing among generated or real images: counts by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.resampling import (
    cohort_target,
    equal_steps,
    gradient_images,
    largest_subset,
    resample_run,
    resampled_cohort,
)
from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import read_arms
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError

VALUES = {"sex": ("female", "male")}


def target(female):
    return make_target({"female": female, "male": 1 - female}, VALUES)


@pytest.mark.parametrize(
    ("counts", "female", "expected"),
    [((20, 80), 0.5, (20, 20)), ((20, 80), 0.25, (20, 60)), ((20, 80), 0.1, (9, 79)), ((5, 5), 1.0, (5, 0))],
)
def test_the_largest_subset_has_the_shares_and_no_row_twice(counts, female, expected):
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1], counts))
    chosen = largest_subset(groups, target(female), seed=3)
    assert tuple(np.bincount(groups[chosen], minlength=2)) == expected
    assert len(set(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()


def test_unread_rows_are_never_chosen_and_a_missing_subgroup_is_said():
    groups = np.array([-1, 0, 1, -1, 1])
    assert set(largest_subset(groups, target(0.5), 0)) <= {1, 2, 4}
    with pytest.raises(InputError, match="'female'"):
        largest_subset(np.array([1, 1]), target(0.5), 0)


def test_rare_rows_in_training_are_repeated_evenly(tmp_path):
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(11)], "sex": ["female"] * 2 + ["male"] * 8 + [""]})
    resampled = resampled_cohort(Cohort(table, tmp_path), target(0.5), seed=1).table
    assert dict(resampled["sex"].value_counts()) == {"female": 5, "male": 5}
    assert sorted(resampled.loc[resampled["sex"] == "female", "image"].value_counts()) == [2, 3]
    assert resampled.loc[resampled["sex"] == "male", "image"].is_unique
    with pytest.raises(InputError, match="'female'"):
        resampled_cohort(Cohort(table[2:10], tmp_path), target(0.5))


def test_several_attributes_are_resampled_by_their_joint(tmp_path):
    rows = [("f", "old")] * 2 + [("f", "young")] * 6 + [("m", "old")] * 3 + [("m", "young")] * 1 + [("", "old")] * 4
    table = pd.DataFrame(rows, columns=["sex", "age"], dtype="str").assign(image=[f"{n}.png" for n in range(16)])
    target = cohort_target("uniform", Cohort(table, tmp_path), "sex|age")
    assert target.names == ["f|old", "f|young", "m|old", "m|young"]
    resampled = resampled_cohort(Cohort(table, tmp_path), target).table
    assert resampled.value_counts(["sex", "age"]).tolist() == [3, 3, 3, 3] and "" not in set(resampled["sex"])
    # as many of each as there can be before one comes again
    assert resampled.loc[(resampled["sex"] == "f") & (resampled["age"] == "young"), "image"].is_unique
    again = resampled_cohort(Cohort(table, tmp_path), target).table
    pd.testing.assert_frame_equal(resampled, again)
    assert list(resampled_cohort(Cohort(table, tmp_path), target, seed=1).table["image"]) != list(resampled["image"])


def test_the_target_of_a_training_is_in_the_words_of_an_alignment(tmp_path):
    table = pd.DataFrame({"sex": ["male", "female", "male", ""], "image": list("abcd")}, dtype="str")
    cohort = Cohort(table, tmp_path)
    assert cohort_target(None, cohort, "sex") is None
    assert cohort_target({"male": 0.7, "female": 0.3}, cohort, "sex").to_dict()["target"] == {
        "female": 0.3,
        "male": 0.7,
    }
    table.to_csv(tmp_path / "reference.csv", index=False)
    shares = cohort_target("table", cohort, "sex", tmp_path / "reference.csv").probabilities
    assert shares == pytest.approx((1 / 3, 2 / 3))
    for spec, message in (
        ({"femal": 0.5, "male": 0.5}, "did you mean 'female'"),
        ({"female": 0.7, "male": 0.7}, "sums to 1.4"),
        ("table", "no reference table"),
        ("uniforn", "did you mean 'uniform'"),
    ):
        with pytest.raises(InputError, match=message):
            cohort_target(spec, cohort, "sex")
    with pytest.raises(InputError, match="sexx"):
        cohort_target("uniform", cohort, "sexx")


@pytest.mark.parametrize(
    ("last_steps", "scale", "expected"),
    # every update: 48 images through 15 steps, or 5, forward and back; with guidance each of them twice
    [(15, 1.0, 2700), (5, 1.0, 900), (15, 2.0, 5400)],
)
def test_a_training_of_the_same_budget_sees_as_many_images(last_steps, scale, expected):
    assert equal_steps(60, 48, last_steps, 16, scale) == expected
    seen = sum(48 if scale == 1 else 96 for _ in range(60) for _ in range(last_steps))
    assert gradient_images(60, 48, last_steps, scale) == seen == 16 * expected
    assert gradient_images(60, 48, last_steps, scale, 32) == seen + 60 * 32
    assert equal_steps(60, 48, last_steps, 16, scale, 32) == expected + 60 * 2
    assert equal_steps(1, 2, 1, 64) == 1


class Red(AttributeClassifier):
    """A female is red, a male is not."""

    def __init__(self):
        super().__init__({"sex": ("female", "male")}, None)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def logits(self, images):
        return self.scale * torch.stack([images[:, 0].mean((1, 2)), images[:, 1].mean((1, 2))], 1)


def sampled(folder, sexes):
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, sex in enumerate(sexes):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., 0 if sex == "female" else 1] = 200
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append((f"images/{number}.png", "a brain", number, 5))
    pd.DataFrame(rows, columns=["image", "caption", "number", "seed"]).to_csv(folder / "manifest.csv", index=False)
    return folder


def test_images_are_chosen_by_what_is_read_in_them(tmp_path):
    source = sampled(tmp_path / "drawn", ["female"] * 3 + ["male"] * 9)
    chosen = resample_run(source, tmp_path / "kept", Red(), target(0.5), 8, seed=2)
    assert set(chosen["number"].astype(int)) >= {0, 1, 2} and len(chosen) == 6
    assert sorted(path.name for path in (tmp_path / "kept" / "images").iterdir()) == sorted(
        image.removeprefix("images/") for image in chosen["image"]
    )
    for image in chosen["image"]:
        assert (tmp_path / "kept" / image).read_bytes() == (source / image).read_bytes()
    summary = json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert summary["made"] == {"images": 6, "of": 12} and summary["figures"]["kept"] == 0.5
    assert summary["figures"]["read"] == {"female": 3, "male": 9} and summary["figures"]["why_none"] is None
    arms = read_arms({"resampled": tmp_path / "kept", "before": source}, ["caption"])
    assert arms["resampled"].selection == {"images": 6, "of": 12} and arms["before"].selection is None
    # once more: what was there is moved, not mixed
    resample_run(source, tmp_path / "kept", Red(), target(1.0), 8)
    assert len(list((tmp_path / "kept" / "images").iterdir())) == 3
    assert len(list((tmp_path / "kept" / "earlier-1" / "images").iterdir())) == 6


def test_where_nothing_can_be_chosen_it_is_said_and_no_image_left(tmp_path, capsys):
    source = sampled(tmp_path / "drawn", ["male"] * 4)
    assert len(resample_run(source, tmp_path / "kept", Red(), target(0.5), 8)) == 0
    summary = json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert summary["made"] == {"images": 0, "of": 4} and "'female'" in summary["figures"]["why_none"]
    assert not (tmp_path / "kept" / "manifest.csv").exists() and not (tmp_path / "kept" / "images").exists()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("warning: no image can be selected: no image is predicted as 'female'")
    assert out[-1].startswith("resampling: done. Results: ")


def test_a_folder_without_images_and_one_that_would_be_overwritten(tmp_path):
    with pytest.raises(InputError, match="--sampling_dir"):
        resample_run(tmp_path, tmp_path / "kept", Red(), target(0.5), 8)
    source = sampled(tmp_path / "drawn", ["female", "male"])
    with pytest.raises(InputError, match="choose another --output_dir"):
        resample_run(source, source, Red(), target(0.5), 8)
