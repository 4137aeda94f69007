"""What lies on both sides of a split: patients, slides, images, files, and patches that look alike."""

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.audit import audit_cohort, has_leakage
from medi_monai.cohort.duplicates import PLAIN
from medi_monai.utils.errors import InputError

LABEL, ATTRIBUTES = "tumor", ["center", "race"]


def named(audit, name):
    return [finding for finding in audit["findings"] if finding["name"] == name]


def test_a_clean_cohort_has_no_leakage(audit):
    assert not has_leakage(audit)
    leakage = audit["leakage"]
    assert [leakage[name]["count"] for name in ("patients", "slides", "images")] == [0, 0, 0]
    assert leakage["near_duplicates"] is None and len(named(audit, "near_duplicates_not_checked")) == 1


def leaking(clean, column):
    """The cohort with two more rows in another split that share one value of a column with the first rows."""
    first = clean[clean["split"] == "train"].iloc[[0, 9]]
    fresh = {"image": ["new/0.png", "new/1.png"], "slide": ["new-0", "new-1"], "patient": ["new-0", "new-1"]}
    fresh.pop(column)
    return pd.concat([clean, first.assign(**fresh, split="holdout")], ignore_index=True), first[column].tolist()


@pytest.mark.parametrize("column", ["patient", "slide", "image"])
def test_what_crosses_the_split_is_leakage(clean, column):
    table, names = leaking(clean, column)
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    section = results["leakage"][f"{column}s"]
    assert has_leakage(results)
    assert section["count"] == 2
    assert section["examples"] == [{column: name, "splits": ["train", "holdout"]} for name in sorted(names)]
    assert section["rows"] == table[column].isin(names).sum()
    (finding,) = [finding for finding in results["findings"] if finding["level"] == "leakage"]
    assert finding["name"] == f"{column}s_cross_split" and f"2 {column}s are in more than one of" in finding["text"]


@pytest.mark.parametrize("column", ["patient", "slide", "image"])
def test_what_is_excluded_leaks_nothing(clean, column):
    table, _ = leaking(clean, column)
    table.loc[len(clean) :, "split"] = "excluded"
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    assert not has_leakage(results) and not named(results, "images_repeated")


def test_only_so_many_examples_are_named(clean):
    table = clean.assign(split=np.where(np.arange(len(clean)) % 2, "train", "val"))
    slides = audit_cohort(table, LABEL, ATTRIBUTES)["leakage"]["slides"]
    assert slides["count"] == clean["slide"].nunique() > 20 == len(slides["examples"])


def test_an_empty_patient_crosses_nothing_and_is_told(clean):
    table = clean.assign(patient=np.where(np.arange(len(clean)) % 7 == 0, "", clean["patient"]))
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    assert not has_leakage(results)
    (finding,) = [finding for finding in named(results, "missing_values") if finding["figures"]["column"] == "patient"]
    assert finding["level"] == "warning" and "cannot be checked" in finding["text"]


def test_near_duplicates_are_not_looked_for_among_images_of_one_position(clean):
    hashes = np.random.default_rng(0).integers(1, 2**30, len(clean), np.uint64)
    audit = audit_cohort(clean, LABEL, [], hashes=hashes)
    assert audit["leakage"]["near_duplicates"] is None and 14 < audit["bits_apart"] < 16
    assert "differ in only 15 of 64 bits" in named(audit, "near_duplicates_not_checked")[0]["text"]


def test_near_duplicates_that_cross_the_split_are_leakage(clean):
    rng = np.random.default_rng(3)
    hashes = rng.integers(2**10, 2**63, len(clean), dtype=np.uint64)
    train, holdout, excluded = (np.flatnonzero(clean["split"] == name) for name in ("train", "holdout", "excluded"))
    hashes[holdout[0]] = hashes[train[0]] ^ np.uint64(0b101)
    hashes[holdout[1]] = hashes[train[8]] ^ np.uint64(0b1111)
    hashes[train[1]] = hashes[train[0]]
    hashes[excluded[0]] = hashes[train[20]]
    hashes[train[30:35]] = PLAIN
    hashes[holdout[5]] = PLAIN
    results = audit_cohort(clean, LABEL, ATTRIBUTES, hashes=hashes)
    section = results["leakage"]["near_duplicates"]
    assert has_leakage(results)
    assert (section["count"], section["rows"], section["plain_rows"]) == (1, 3, 6)
    (example,) = section["examples"]
    assert example["distance"] == 2
    assert example["second"]["image"] == clean["image"][holdout[0]] and example["second"]["split"] == "holdout"
    assert example["first"] == {**clean[["image", "slide", "patient"]].iloc[train[0]].to_dict(), "split": "train"}
    assert audit_cohort(clean, LABEL, [], hashes=hashes, max_distance=4)["leakage"]["near_duplicates"]["count"] == 2
    assert not named(results, "near_duplicates_not_checked")


def test_copies_of_files_equal_those_of_a_loop(clean):
    rng = np.random.default_rng(0)
    slides = clean.drop_duplicates("slide").set_index("slide")
    same = {name: f"f{number}" for name, number in zip(slides.index, rng.integers(0, len(slides), len(slides)))}
    prints = ["" if slide.endswith("-1") else same[slide] for slide in clean["slide"]]
    results = audit_cohort(clean, LABEL, [], fingerprints=prints)
    crossing, conflicts, rows = set(), set(), 0
    for name in set(prints) - {""}:
        copies = clean[np.array(prints) == name]
        sides = copies[copies["split"] != "excluded"]
        if sides["split"].nunique() > 1:
            crossing.add(name)
            rows += len(sides)
        if copies["patient"].nunique() > 1 or copies[LABEL].nunique() > 1:
            conflicts.add(name)
    leak, conflict = results["leakage"]["files"], results["conflicts"]["identical_files"]
    assert len(crossing) > 5 and (leak["count"], leak["rows"]) == (len(crossing), rows)
    assert len(conflicts) > len(crossing) and conflict["count"] == len(conflicts)
    (finding,) = named(results, "files_cross_split")
    assert (
        finding["level"] == "leakage"
        and f"{len(crossing)} byte-identical files are" in finding["text"]
        and has_leakage(results)
    )
    (finding,) = named(results, "identical_files")
    assert finding["level"] == "warning" and finding["figures"]["files"] == len(conflicts)
    order = rng.permutation(len(clean))
    assert audit_cohort(clean.iloc[order], LABEL, [], fingerprints=np.array(prints)[order]) == results


def test_files_of_one_patient_and_label_may_have_several_names_and_excluded_ones_do_not_leak(clean):
    slides = clean.drop_duplicates("slide")
    patient = slides.loc[slides["slide"].str.endswith("-1"), "patient"].iloc[0]
    same = audit_cohort(clean, LABEL, [], fingerprints=np.where(clean["patient"] == patient, "a", ""))
    assert same["leakage"]["files"] == {"count": 0, "rows": 0, "examples": []}
    assert same["conflicts"]["identical_files"]["count"] == 0
    pair = [slides.loc[slides["split"] == split, "slide"].iloc[0] for split in ("excluded", "train")]
    apart = audit_cohort(clean, LABEL, [], fingerprints=np.where(clean["slide"].isin(pair), "a", ""))
    assert apart["leakage"]["files"]["count"] == 0 and not has_leakage(apart)
    assert apart["conflicts"]["identical_files"]["of_several_patients"] == 1
    assert audit_cohort(clean, LABEL, [])["leakage"]["files"] is None
    with pytest.raises(InputError, match=f"2 fingerprints for {len(clean)} rows"):
        audit_cohort(clean, LABEL, [], fingerprints=["a", "b"])


def test_a_doubled_slide_is_one_example_of_near_duplicates(clean):
    slides = clean.groupby("split")["slide"].first()
    hashes = np.arange(1, len(clean) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    first, second = (np.flatnonzero(clean["slide"] == slides[name]) for name in ("train", "val"))
    hashes[second] = hashes[first]
    hashes[second[-2:]] ^= np.uint64(0b11)
    section = audit_cohort(clean, LABEL, [], hashes=hashes)["leakage"]["near_duplicates"]
    assert (section["count"], section["rows"], len(section["examples"])) == (4, 8, 1)
    assert section["examples"][0]["distance"] == 0


@pytest.mark.parametrize(("fewer", "kind"), [(1, np.uint64), (0, np.int64)])
def test_hashes_that_do_not_fit_the_table_are_refused(clean, fewer, kind):
    with pytest.raises(InputError, match="one per row"):
        audit_cohort(clean, LABEL, [], hashes=np.zeros(len(clean) - fewer, kind))
