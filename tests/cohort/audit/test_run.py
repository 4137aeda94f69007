import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.stats.contingency import association as scipy_association

from medi_monai.cohort.audit import audit_cohort, has_leakage
from medi_monai.cohort.tables import clean_cells
from medi_monai.results import LEVELS
from medi_monai.utils.errors import InputError

LABEL, ATTRIBUTES = "tumor", ["center", "race"]


def named(audit, name):
    return [finding for finding in audit["findings"] if finding["name"] == name]


def test_an_audit_is_json_and_its_findings_are_sorted(audit):
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit
    levels = [LEVELS.index(finding["level"]) for finding in audit["findings"]]
    assert levels == sorted(levels)
    for finding in audit["findings"]:
        assert set(finding) == {"level", "name", "text", "figures"}
        assert finding["text"].endswith(".") and "nan" not in finding["text"] and "None" not in finding["text"]


def test_the_order_of_rows_does_not_matter(clean):
    rng = np.random.default_rng(0)
    table = pd.concat([clean, clean.iloc[:9].assign(split="holdout")], ignore_index=True)
    hashes = rng.integers(1, 30, len(table), dtype=np.uint64)
    expected = audit_cohort(table, LABEL, ATTRIBUTES, hashes=hashes)
    order = rng.permutation(len(table))
    assert audit_cohort(table.iloc[order], LABEL, ATTRIBUTES, hashes=hashes[order]) == expected
    assert has_leakage(expected)


def test_sizes_of_splits_equal_those_of_pandas(clean, audit):
    by_split = {"all": clean, **dict(list(clean.groupby("split")))}
    assert list(audit["splits"]) == ["all", "train", "val", "holdout", "excluded"]
    for split, sizes in audit["splits"].items():
        rows = by_split[split]
        assert sizes == {
            "rows": len(rows),
            "slides": rows["slide"].nunique(),
            "patients": rows["patient"].nunique(),
            "classes": rows["tumor"].nunique(),
        }


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_counts_of_cells_equal_a_loop(clean, audit, attribute):
    section = audit["attributes"][attribute]
    cells = pd.DataFrame(section["cells"])
    values = clean[attribute].str.strip()
    keys = [clean["tumor"], values, clean["split"]]
    expected = clean.groupby(keys).agg({"image": "size", "slide": "nunique", "patient": "nunique"})
    counts = cells.set_index(["tumor", attribute, "split"])[["rows", "slides", "patients"]]
    assert counts.sort_index().to_numpy().tolist() == expected.sort_index().to_numpy().tolist()
    known = clean.assign(value=values)[values != ""]
    patients = known.groupby(["tumor", "value"])["patient"].nunique()
    assert section["num_cells"] == 3 * known["value"].nunique()
    assert section["empty_cells"] == section["num_cells"] - len(patients)
    in_train = known[known["split"] == "train"].groupby(["tumor", "value"]).ngroups
    assert section["empty_cells_in_train"] == section["num_cells"] - in_train
    assert section["rare_cells"]["count"] == (patients < 5).sum()


def test_association_counts_patients_and_not_patches(clean):
    weighted = pd.concat([clean, *[clean[clean["tumor"] == "t0"].assign(image=str(copy)) for copy in range(20)]])
    few, many = (audit_cohort(table, LABEL, ATTRIBUTES)["attributes"] for table in (clean, weighted))
    assert few["center"]["association"] == many["center"]["association"]
    for split in ("all", "train", "holdout"):
        rows = clean if split == "all" else clean[clean["split"] == split]
        patients = rows.drop_duplicates("patient")
        expected = scipy_association(pd.crosstab(patients["tumor"], patients["center"]), method="cramer")
        association = few["center"]["association"][split]
        assert association["cramers_v_uncorrected"] == {"value": pytest.approx(expected), "n": len(patients)}
    assert "excluded" not in few["center"]["association"]


def test_missing_metadata_is_counted_by_class(clean, audit):
    lacking = clean["race"].isin(["", " "])
    missing = audit["missing"]["race"]
    assert missing["rows"] == lacking.sum()
    assert missing["patients"] == clean.loc[lacking, "patient"].nunique()
    shares = lacking.groupby(clean["patient"]).first().groupby(clean.groupby("patient")["tumor"].first()).mean()
    assert missing["by_class"] == pytest.approx(shares.to_dict())
    assert audit["missing"]["center"]["rows"] == 0
    (finding,) = named(audit, "missing_values")
    assert finding["figures"] == {"column": "race", "rows": int(lacking.sum())}


def test_a_class_without_metadata_is_a_warning(clean):
    table = clean.assign(race=np.where(clean["tumor"] == "t1", "", "white"))
    (finding,) = named(audit_cohort(table, LABEL, ["race"]), "missing_values")
    assert finding["level"] == "warning" and "in 0% to 100% of patients" in finding["text"]


def test_rows_without_a_split_are_told(clean):
    table = clean.assign(split=clean["split"].where(np.arange(len(clean)) % 5 > 0, ""))
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    assert named(results, "rows_without_split")[0]["figures"] == {"rows": int((table["split"] == "").sum())}
    assert "" not in results["splits"] and results["splits"]["all"]["rows"] == len(table)


def test_columns_of_too_many_values_are_named_with_their_numbers():
    count = 100_000
    table = pd.DataFrame({"slide": np.arange(count).astype(str), "split": "train"})
    table = table.assign(patient=table["slide"], tumor="t" + table["slide"], center="c" + table["slide"])
    with pytest.raises(InputError, match="'tumor' has 100,000 values and 'center' 100,000, .*Is 'tumor' the label"):
        audit_cohort(table, "tumor", ["center"])


def test_a_value_of_one_class_alone_is_told(clean):
    table = clean.assign(code=clean["tumor"] + "-" + clean["center"], center=np.where(
        (clean["center"] == "c0") & (clean["tumor"] != "t0"), "c1", clean["center"]))  # fmt: skip
    results = audit_cohort(table, LABEL, ["center", "code"])
    code = results["attributes"]["code"]["classes_per_value"]
    assert code["max"] == 1 and code["mean"] == 1
    assert code["single_class"]["values"] == code["single_class"]["of"] == table["code"].nunique()
    assert code["single_class"]["share_of_patients"] == 1
    (finding,) = named(results, "attribute_decides_class")
    assert finding["level"] == "warning" and "code determines tumor." in finding["text"]
    center = results["attributes"]["center"]["classes_per_value"]
    assert (center["max"], center["single_class"]["values"]) == (3, 1)
    assert center["single_class"]["examples"] == ["c0"]
    patients = table.drop_duplicates("patient")
    share = (patients["center"] == "c0").mean()
    assert center["single_class"]["share_of_patients"] == pytest.approx(share)
    assert len(named(results, "values_of_one_class")) == 1


def test_a_shortcut_is_told_in_numbers_that_can_be_checked(clean):
    tied = np.where(np.arange(len(clean)) // 8 % 4 > 0, clean["tumor"], clean["center"])
    table = clean.assign(scanner=pd.Series(tied).groupby(clean["patient"]).transform("first"))
    results = audit_cohort(table, LABEL, ["scanner", "center"])
    (finding,) = named(results, "shortcut")
    assert finding["level"] == "warning" and finding["figures"]["attribute"] == "scanner"
    figures = results["attributes"]["scanner"]["association"]["train"]
    assert f"{figures['majority_rule']['accuracy']:.0%} of patients" in finding["text"]
    assert finding["figures"]["patients"] == table.loc[table["split"] == "train", "patient"].nunique()


def test_what_training_lacks_equals_a_loop(clean, audit):
    table = clean.assign(race=clean["race"].str.strip())
    keys = ["tumor", *ATTRIBUTES]
    combinations = {
        split: list(rows[keys].itertuples(index=False, name=None)) for split, rows in table.groupby("split")
    }
    trained = set(combinations["train"])
    section = audit["combinations"]
    assert section["columns"] == keys and section["train"] == {"combinations": len(trained)}
    for split in ("val", "holdout"):
        rows = combinations[split]
        assert section[split]["combinations"] == len(set(rows))
        assert section[split]["unseen_in_train"] == len(set(rows) - trained)
        assert section[split]["seen_in_train"] == len(set(rows) & trained)
        assert section[split]["rows_seen"] == sum(row in trained for row in rows)
        assert section[split]["rows_unseen"] == sum(row not in trained for row in rows)


def test_of_one_column_too_it_is_known_what_training_has(clean):
    table = clean.assign(split=np.where(clean["tumor"] == "t2", "holdout", clean["split"]))
    section = audit_cohort(table, LABEL, [])["combinations"]
    assert section["columns"] == [LABEL]
    for split in ("val", "holdout"):
        rows = table.loc[table["split"] == split, LABEL]
        seen = rows.isin(table.loc[table["split"] == "train", LABEL])
        assert (section[split]["rows_seen"], section[split]["rows_unseen"]) == (int(seen.sum()), int((~seen).sum()))
    assert section["val"]["unseen_in_train"] == 0 and section["holdout"]["unseen_in_train"] == 1


def test_a_class_that_training_never_sees_is_a_warning(clean):
    table = clean.assign(split=np.where(clean["tumor"] == "t2", "holdout", "train"))
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    assert results["combinations"]["holdout"]["values_unseen_in_train"]["tumor"] == ["t2"]
    levels = {finding["figures"]["column"]: finding["level"] for finding in named(results, "values_unseen_in_train")}
    assert levels["tumor"] == "warning"


def test_properties_of_files_that_differ_by_center_are_told(clean):
    center = clean["center"].str[1].astype(int)
    number = clean["patient"].str[1:].astype(int)
    table = clean.assign(
        mpp=np.where(center < 3, "0.25", "0.46"),
        width=(20_000 + 10_000 * center + number).astype(str),
        height="512",
        image=clean["slide"] + "/" + np.arange(len(clean)).astype(str) + np.where(center == 5, ".JPG", ".png"),
    )
    results = audit_cohort(table, LABEL, ["center"])
    sections = {entry["property"]: entry for entry in results["properties"]}
    assert set(sections) == {"mpp", "width", "height", "suffix"}
    assert sections["height"] == {"property": "height", "num_values": 1, "targets": {}}
    assert sections["width"]["num_values"] == 10 and sections["suffix"]["num_values"] == 2
    told = {
        (finding["figures"]["property"], finding["figures"]["target"]) for finding in named(results, "property_differs")
    }
    assert told == {("mpp", "center"), ("width", "center"), ("suffix", "center")}
    assert [entry["property"] for entry in audit_cohort(table, LABEL, [], properties=["mpp"])["properties"]] == ["mpp"]


@pytest.mark.parametrize("square", [True, False])
def test_width_and_height_are_one_finding(clean, square):
    center = clean["center"].str[1].astype(int)
    width = (500 + 10 * center).astype(str)
    # the last center has the height of the one before
    height = width if square else (500 + 10 * center.clip(upper=center.max() - 1)).astype(str)
    results = audit_cohort(clean.assign(width=width, height=height), LABEL, ["center"])
    (finding,) = (row for row in named(results, "property_differs") if row["figures"]["target"] == "center")
    assert finding["figures"]["property"] == "width and height"
    assert "The file properties width and height are associated with center: Cramér's V" in finding["text"]
    assert f"Guessing center from {'either' if square else 'width'} alone is correct for" in finding["text"]
    targets = {entry["property"]: entry["targets"] for entry in results["properties"]}
    values = {name: targets[name]["center"]["cramers_v"]["value"] for name in ("width", "height")}
    assert finding["figures"]["cramers_v"] == values["width"] >= values["height"]


def test_numbers_are_binned_where_they_are_declared(clean):
    rng = np.random.default_rng(0)
    years = pd.Series(rng.integers(20, 90, 200).astype(str))[clean["patient"].str[1:].astype(int)].to_numpy()
    table = clean.assign(age=np.where(clean["patient"] == "p003", "", years))
    ages = audit_cohort(table, LABEL, ["age"])["attributes"]["age"]
    bins = audit_cohort(table, LABEL, ["age"], continuous=["age"])["attributes"]["age"]
    assert ages["num_values"] > 40 and bins["num_values"] == 10
    cells = pd.DataFrame(bins["cells"])
    known = table[table["age"] != ""]["age"].astype(int)
    for name, rows in cells[cells["age"] != ""].groupby("age")["rows"].sum().items():
        low, high = map(int, (name.split(" to ") * 2)[:2])
        assert known.between(low, high).sum() == rows
    assert cells.loc[cells["age"] != "", "rows"].sum() == len(known)
    decades = table.assign(age=[f"{int(age) // 10}0.{'0' * (number % 2)}" for number, age in enumerate(years)])
    section = audit_cohort(decades, LABEL, ["age"], continuous=["age"])["attributes"]["age"]
    assert sorted(set(section["cells"]["age"])) == [f"{decade}0" for decade in range(2, 9)]
    one = table.assign(age=table["age"].mask(table["patient"] == "p007", "6o"))
    audit = audit_cohort(one, LABEL, ["age"], continuous=["age"])
    lost = int((one["patient"].isin(["p003", "p007"])).sum())
    assert audit["missing"]["age"]["rows"] == lost and audit["attributes"]["age"]["num_values"] == 10
    (finding,) = [finding for finding in audit["findings"] if finding["name"] == "values_not_numbers"]
    assert finding["text"] == "age is a number, but 1 value cannot be read as one and counts as missing: '6o'."
    with pytest.raises(InputError, match="age = 'old' is not a number"):
        audit_cohort(table.assign(age="old"), LABEL, ["age"], continuous=["age"])


def test_conflicts_in_the_table_are_told(clean):
    table = pd.concat([clean, clean.iloc[[0]].assign(center="c9", image="x.png"), clean.iloc[[50, 50]]])
    table.iloc[-2:, table.columns.get_loc("patient")] = ["pX", "pY"]
    results = audit_cohort(table.assign(split="train"), LABEL, ["center"])
    assert results["conflicts"]["slides_of_several_patients"] == {"count": 1, "examples": [clean["slide"].iloc[50]]}
    several = results["conflicts"]["patients_with_several_values"]
    assert several["center"] == {"count": 1, "examples": [clean["patient"].iloc[0]]} and several["tumor"]["count"] == 0
    assert results["leakage"]["images"]["repeated"] == {"count": 1, "examples": [clean["image"].iloc[50]]}
    assert len(named(results, "images_repeated")) == len(named(results, "slides_of_several_patients")) == 1


def test_a_cohort_without_a_split_is_audited_too(clean):
    results = audit_cohort(clean.drop(columns=["split", "image"]), LABEL, ATTRIBUTES, split=None)
    assert results["leakage"] is None and results["combinations"] is None and list(results["splits"]) == ["all"]
    assert list(results["attributes"]["center"]["association"]) == ["all"]
    assert len(named(results, "no_split")) == 1 and not has_leakage(results)


def test_codes_that_look_like_numbers_or_missing_data_survive():
    table = pd.DataFrame({"patient": list("abcd"), "slide": list("abcd"), "split": "train", "tumor": ["x", "y"] * 2})
    table["site"] = ["01", "1", "NA", "null"]
    section = audit_cohort(table, "tumor", ["site"])["attributes"]["site"]
    assert sorted(section["cells"]["site"]) == ["01", "1", "NA", "null"]


@pytest.mark.parametrize("column", ["center", "tumor"])
def test_a_column_without_any_value_is_undefined_and_not_zero(clean, column):
    results = audit_cohort(clean.assign(**{column: ""}), LABEL, ATTRIBUTES)
    figures = results["attributes"]["center"]["association"]["all"]
    assert figures["cramers_v"] == {"value": None, "ci95": None, "n": 0}
    assert results["missing"][column]["rows"] == len(clean)


def test_columns_are_named_as_the_table_has_them(clean, audit):
    names = {"patient": "case", "slide": "barcode", "split": "part", "image": "file"}
    results = audit_cohort(clean.rename(columns=names), LABEL, ATTRIBUTES, **names)
    assert results == audit


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": "tumour"}, "did you mean 'tumor'"),
        ({"attributes": ["centre"]}, "did you mean 'center'"),
        ({"patient": "case"}, "unknown column 'case'"),
        ({"attributes": ["center", "center"]}, "'center' has two roles"),
        ({"attributes": ["tumor"]}, "'tumor' has two roles"),
        ({"continuous": ["mpp"]}, "not among the attributes"),
        ({"properties": ["widht"]}, "unknown column 'widht'"),
        ({"patient": "slide", "slide": "image", "image": "", "attributes": ["patient"]}, "built-in column"),
    ],
)
def test_mistakes_are_one_line(clean, changes, sentence):
    arguments = {"label": LABEL, "attributes": ATTRIBUTES, **changes}
    with pytest.raises(InputError, match=sentence):
        audit_cohort(clean, **arguments)


def test_two_hundred_thousand_patches_need_little_memory(clean):
    table = pd.concat([clean] * (200_000 // len(clean)), ignore_index=True)
    table["image"] = table["slide"] + "/" + np.arange(len(table)).astype(str)
    tracemalloc.start()
    results = audit_cohort(table, LABEL, ATTRIBUTES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert results["splits"]["all"]["rows"] == len(table) and not has_leakage(results)


@pytest.fixture(scope="module")
def tcga(real_data):
    """TCGA's slides, the site taken from the barcode, and the center behind it as the table of codes spells it."""
    slides = pd.read_csv(real_data / "tcga" / "slides.csv", dtype=str, keep_default_na=False)
    sites = pd.read_csv(real_data / "tcga" / "tissue_source_sites.csv", dtype=str, keep_default_na=False)
    slides["race"] = clean_cells(slides["race"])
    slides["site"] = slides["case_submitter_id"].str.split("-").str[1]
    slides["center"] = slides["site"].map(sites.set_index("tissue_source_site")["center"]).fillna("")
    patients = slides["case_submitter_id"]
    slides["split"] = np.where(pd.util.hash_array(patients.to_numpy(object)) % 10 < 7, "train", "holdout")
    roles = {"patient": "case_submitter_id", "slide": "slide_submitter_id"}
    return slides, audit_cohort(slides, "project_id", ["site", "center", "race"], **roles)


def test_a_site_code_of_tcga_gives_the_class_away_and_a_center_does_not(tcga):
    _, results = tcga
    assert results["splits"]["all"] == {"rows": 8726, "slides": 8726, "patients": 7168, "classes": 32}
    codes, centers = (results["attributes"][name]["classes_per_value"] for name in ("site", "center"))
    assert (codes["max"], codes["single_class"]["values"], codes["single_class"]["of"]) == (1, 626, 626)
    assert centers["max"] == 23
    assert [finding["figures"]["attribute"] for finding in named(results, "attribute_decides_class")] == ["site"]
    assert results["attributes"]["site"]["association"]["all"]["cramers_v_uncorrected"]["value"] == pytest.approx(1)


def test_the_figures_of_tcga_equal_those_of_pandas_and_scipy(tcga):
    slides, results = tcga
    patients = slides[slides["center"] != ""].drop_duplicates(["case_submitter_id", "project_id", "center"])
    crossed = pd.crosstab(patients["project_id"], patients["center"])
    figures = results["attributes"]["center"]["association"]["all"]
    assert figures["cramers_v_uncorrected"]["value"] == pytest.approx(scipy_association(crossed, method="cramer"))
    assert results["attributes"]["center"]["empty_cells"] == (crossed == 0).sum().sum()
    assert results["attributes"]["center"]["classes_per_value"]["max"] == (crossed > 0).sum().max()
    assert results["missing"]["race"]["rows"] == (slides["race"] == "").sum() > 0
    assert not has_leakage(results)


def test_an_attribute_that_guesses_worse_than_the_most_common_class_is_no_warning():
    # three patients of each of two classes: the five others of a value always speak for the wrong class
    tied = pd.DataFrame({"center": [f"c{number // 6}" for number in range(360)], "split": "train"})
    tied["tumor"] = [("ab" if number // 6 % 2 else "cd")[number % 2] for number in range(360)]
    tied["patient"] = tied["slide"] = [f"p{number}" for number in range(360)]
    audit = audit_cohort(tied, LABEL, ["center"])
    figures = audit["attributes"]["center"]["association"]["all"]
    assert figures["majority_rule"]["accuracy"] == 0 and figures["cramers_v"]["value"] > 0.35
    (finding,) = [finding for finding in audit["findings"] if finding["name"] == "shortcut"]
    assert finding["level"] == "note" and "strongly associated" in finding["text"]


def test_bins_are_in_order(clean):
    numbers = clean["patient"].str[1:].astype(int) % 6
    bins = ["0-9", "10-19", "20-29", "90-99", "100-109", "110+"]
    audit = audit_cohort(clean.assign(age=numbers.map(dict(enumerate(bins)))), LABEL, ["age"])
    assert list(dict.fromkeys(audit["attributes"]["age"]["cells"]["age"][:100])) == bins
