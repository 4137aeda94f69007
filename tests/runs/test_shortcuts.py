"""The run ``shortcuts`` on a planted shortcut: files, figures, page, resumption and errors."""

import json

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.settings import FeatureSettings
from medi_monai.results import read_results, read_schema
from medi_monai.results.shortcuts import ShortcutResults
from medi_monai.runs.shortcuts import labeled_features, shortcut_run
from medi_monai.utils.errors import InputError

PROBE = {
    "c_values": [0.1],
    "num_repeats": 2,
    "probe_replicates": 40,
    "sweep_repeats": 1,
    "sweep_correlations": [0.0, 1.0],
}
COHORT = {
    "table": "slides.csv", "columns": {"slide": "slide", "patient": "patient"}, "mapping": None, "missing": None,
    "label": "tumor", "metadata_columns": ["hospital", "sex", "age"], "max_patches_per_slide": 8,
    "split_columns": ["tumor", "hospital"], "split_scheme": "auto", "holdout_fraction": 0.3, "holdout_values": [],
    "val_fraction": None, "num_folds": 5, "fold": 0, "split_seed": 0,
}  # fmt: skip


def plant(root, label=0.5, center=3.0, patients=5):
    """Slides of three classes at three centers: features = class direction + center direction + noise."""
    rng, rows = np.random.default_rng(0), []
    (root / "f").mkdir()
    for number in range(9 * patients):
        first, second = number % 3, number // 3 % 3
        mean = label * np.eye(8)[first] + center * np.eye(8)[3 + second]
        np.savez(root / "f" / f"S{number}.npz", features=mean + rng.normal(size=(10, 8)))
        rows.append((f"S{number}", f"P{number}", "ABC"[first], f"H{second}", "fm"[number % 7 % 2], 30 + number))
    table = pd.DataFrame(rows, columns=["slide", "patient", "tumor", "hospital", "sex", "age"]).astype(str)
    table.loc[0, "sex"] = ""
    table.to_csv(root / "slides.csv", index=False)


def run(root, out="out", **changes):
    features = FeatureSettings(feature_source=str(root / "f"), pooling=changes.pop("pooling", "none"))
    cohort = {**COHORT, "dataset_dir": str(root), **changes}
    return shortcut_run(labeled_features(features, cohort, "stop"), features, cohort, root / out, PROBE, num_workers=1)


def test_a_planted_center_is_found_and_every_figure_is_written(tmp_path, capsys):
    plant(tmp_path)
    results = run(tmp_path)
    center = results.attributes["hospital"].shortcut
    assert center.center_probe_accuracy.value > 0.9 > results.label_probe_accuracy.value
    assert center.robustness_index.value < 0.3 and center.clustering_score.value < -0.5
    for figure in (center.robustness_index, center.clustering_score):
        assert figure.ci95[0] < figure.value < figure.ci95[1]
    assert results.conclusions[0].text == "The features reveal hospital more than tumor."
    sex = results.attributes["sex"]
    assert sex.missing == 8 and sex.shortcut.center_probe_accuracy.ci95[0] < 0.5
    assert results.attributes["age"].shortcut.center_probe_accuracy.num_values == 10
    assert results.features.unit == "patch" and results.features.n == 45 * 8 and results.features.dim == 8
    assert [finding.text for finding in results.warnings] == [
        "age is a number and is compared in 10 bins.", "8 patches without sex: left out of its figures."
    ]  # fmt: skip
    out = tmp_path / "out"
    assert read_results(out / "shortcuts.json", ShortcutResults) == results
    jsonschema.validate(json.loads((out / "shortcuts.json").read_text()), read_schema("shortcuts"))
    table = pd.read_csv(out / "shortcuts.csv").set_index(["column", "figure"])
    assert table.loc[("hospital", "robustness_index"), ["value", "low", "high"]].tolist() == pytest.approx(
        [center.robustness_index.value, *center.robustness_index.ci95]
    )
    audit = json.loads((out / "audit.json").read_text())
    value = audit["attributes"]["hospital"]["association"]["all"]["cramers_v"]["value"]
    assert results.attributes["hospital"].association.value == value
    page = (out / "report.html").read_text()
    assert page.index("The features reveal hospital more than tumor.") < page.index("<h2")
    assert 'href="audit.html"' in page and "360 patches (45 slides, 45 patients)" in page
    assert capsys.readouterr().out.splitlines()[-1] == f"shortcuts: done. Results: {out / 'report.html'}"


def test_a_repeated_run_is_equal_and_keeps_the_earlier_one(tmp_path):
    plant(tmp_path)
    first, again = run(tmp_path, metadata_columns=["hospital"]), run(tmp_path, metadata_columns=["hospital"])
    assert first == again
    assert {path.name for path in (tmp_path / "out" / "earlier-1").iterdir()} == {
        "shortcuts.json", "shortcuts.csv", "audit.json", "audit.html", "report.html", "summary.json"
    }  # fmt: skip


def test_means_of_slides_say_so(tmp_path):
    plant(tmp_path)
    results = run(tmp_path, pooling="slides", metadata_columns=["hospital"])
    assert results.features.unit == "slide" and results.features.n == 45
    assert "Each slide is the mean of the features of its patches." in (tmp_path / "out" / "report.html").read_text()


def test_centers_may_be_held_out_whole(tmp_path):
    plant(tmp_path, label=3.0, center=0.0)
    results = run(tmp_path, split_scheme="site_holdout", holdout_values=["H1"], metadata_columns=["hospital"])
    assert {group.values["hospital"] for group in results.unseen.unseen.test.groups} == {"H1"}
    assert results.unseen.drop.difference.ci95[0] < 0.05
    assert results.conclusions[0].level == "ok"


def test_the_split_that_was_chosen_and_why_is_on_the_page(tmp_path):
    plant(tmp_path)
    results = run(tmp_path, metadata_columns=["hospital"])
    assert results.unseen.split_scheme == "combination_holdout"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Split: combination_holdout, the first scheme that these rows allow (--split_scheme auto)." in page


def test_a_split_of_the_table_is_used_as_it_is(tmp_path):
    plant(tmp_path)
    table = pd.read_csv(tmp_path / "slides.csv", dtype=str, keep_default_na=False)
    held = ((table["tumor"] == "A") & (table["hospital"] == "H2")).to_numpy()
    table.assign(part=np.where(held, "test", "train")).to_csv(tmp_path / "slides.csv", index=False)
    columns = {**COHORT["columns"], "split": "part"}
    results = run(tmp_path, columns=columns, metadata_columns=["hospital"])
    assert [tuple(group.values.values()) for group in results.unseen.unseen.test.groups] == [("A", "H2")]
    assert results.unseen.split_scheme == "given" and results.unseen.in_domain is not None
    assert "Split: that of the table, column part." in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match="split_scheme = 'site_holdout', but the table has a split .*leave out one"):
        run(tmp_path, columns=columns, split_scheme="site_holdout")
    table.assign(part="train").to_csv(tmp_path / "slides.csv", index=False)
    with pytest.raises(InputError, match="the column 'part' has no usable row of the split 'holdout'"):
        run(tmp_path, "other", columns=columns)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("column, says", [("tumor", "check --label"), ("hospital", "check --metadata_columns"),
                                          ("sex", "leave it out of --metadata_columns")])  # fmt: skip
def test_a_column_with_a_single_value_is_one_line(tmp_path, column, says):
    plant(tmp_path)
    table = pd.read_csv(tmp_path / "slides.csv", dtype=str, keep_default_na=False)
    table.assign(**{column: "one"}).to_csv(tmp_path / "slides.csv", index=False)
    with pytest.raises(InputError, match=f"all patches have the same {column}, 'one', so .*{says}"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"metadata_columns": []}, "metadata_columns is empty"),
        ({"metadata_columns": ["tumor"]}, "the label cannot also be an attribute"),
        (
            {"metadata_columns": ["hospitals"], "split_columns": ["tumor"]},
            "unknown column 'hospitals': did you mean 'hospital'",
        ),
        ({"split_columns": ["tumor", "race"]}, "unknown column of split_columns 'race'"),
        ({"split_columns": ["hospital"]}, "the label, 'tumor', has to be first"),
        ({"table": "slide.csv"}, "table not found"),
        ({"split_scheme": "site_holdout", "holdout_values": ["H9"]}, "unknown hospital 'H9'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(tmp_path, changes, says):
    plant(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        run(tmp_path, **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
