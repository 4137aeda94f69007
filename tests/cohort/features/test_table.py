"""Features join their metadata by slide, patient, coordinates or row; means are means; what does not fit is said."""

import h5py
import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.features import FeatureSource, features_path, read_feature_cohort
from medi_monai.utils.errors import InputError

DIM = 3


@pytest.fixture
def data(tmp_path):
    """Six slides of four patients, in two formats, with their features by name."""
    rng, features, rows = np.random.default_rng(0), {}, []
    (tmp_path / "f").mkdir()
    for number in range(6):
        name, count = f"S{number}", 4 + number
        values = features[name] = rng.normal(size=(count, DIM)).astype("float32")
        coords = np.stack([np.arange(count) * 256, np.full(count, number)], 1)
        if number % 2:
            with h5py.File(tmp_path / "f" / f"{name}.h5", "w") as file:
                file["features"], file["coords"] = values, coords
        else:
            np.savez(tmp_path / "f" / f"{name}.npz", features=values, coords=coords)
        patient = number // 2 if number < 4 else number - 2
        rows.append({"slide": name, "patient": f"P{patient}", "label": "AB"[patient % 2], "center": "XY"[number % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path, features, pd.DataFrame(rows)


def metadata(root, **changes):
    about = {"dataset_dir": str(root), "table": "t.csv", "columns": {}, "mapping": None, "missing": None}
    return {**about, "label": "label", "attributes": ["center"], **changes}


def read(root, features="f", pooling="none", max_patches=None, on_error="stop", **changes):
    source = FeatureSource(root / features, None, pooling, max_patches, 0, on_error)
    return read_feature_cohort(source, metadata(root, **changes))


def test_every_patch_has_its_features_and_the_metadata_of_its_slide(data):
    root, features, rows = data
    cohort = read(root)
    assert cohort.unit == "patch" and len(cohort.table) == sum(map(len, features.values())) and cohort.notes == ()
    about = rows.set_index("slide")
    for values, row in zip(cohort.features, cohort.table.itertuples()):
        name, _, number = row.image.partition("#")
        assert name == row.slide and np.array_equal(values, features[name][int(number)])
        assert (row.patient, row.label, row.center) == tuple(about.loc[name])


def test_the_order_of_rows_changes_nothing(data):
    root, _, rows = data
    first = read(root, max_patches=3)
    rows[::-1].to_csv(root / "t.csv", index=False)
    second = read(root, max_patches=3)
    assert np.array_equal(first.features, second.features) and first.digest == second.digest
    assert first.table["slide"].value_counts().max() == 3
    assert read(root).digest != first.digest


def test_means_of_slides_and_patients_are_those_of_all_patches(data):
    root, features, rows = data
    slides = read(root, pooling="slides", max_patches=2)
    assert slides.unit == "slide" and slides.table["image"].tolist() == rows["slide"].tolist()
    assert np.allclose(slides.features, [features[name].mean(0) for name in rows["slide"]], atol=1e-6)
    patients = read(root, pooling="patients", attributes=[])
    assert patients.unit == "patient" and patients.table["patient"].tolist() == ["P0", "P1", "P2", "P3"]
    for values, patient in zip(patients.features, patients.table["patient"]):
        own = np.concatenate([features[name] for name in rows.loc[rows["patient"] == patient, "slide"]])
        assert np.allclose(values, own.mean(0), atol=1e-6)
    with pytest.raises(InputError, match="rows of the patient 'P0' differ in center, so its features cannot be averag"):
        read(root, pooling="patients")


def test_a_table_of_patients_takes_all_their_slides(data):
    root, features, rows = data
    for row in rows.itertuples():
        for suffix in (".h5", ".npz"):
            path = root / "f" / f"{row.slide}{suffix}"
            if path.is_file():
                path.rename(root / "f" / f"{row.patient}-{row.slide}{suffix}")
    rows.drop_duplicates("patient").to_csv(root / "t.csv", index=False)
    cohort = read(root, columns={"slide": None, "patient": "patient"})
    assert len(cohort.table) == sum(map(len, features.values())) and cohort.table["slide"].nunique() == 6
    assert all(slide.startswith(patient) for slide, patient in zip(cohort.table["slide"], cohort.table["patient"]))


def test_a_table_of_patches_is_matched_by_coordinates(data):
    root, features, rows = data
    patches = pd.DataFrame(
        [
            {"slide": name, "x": number * 256.0, "y": int(name[1]), "patient": name, "label": "AB"[number // 2 % 2]}
            for name, values in features.items()
            for number in range(0, len(values), 2)
        ]
    ).assign(center="X")
    patches.sample(frac=1, random_state=0).to_parquet(root / "patches.parquet")
    options = {"table": "patches.parquet", "columns": {"x": "x", "y": "y"}}
    cohort = read(root, **options)
    expected = {values[number].tobytes(): (name, "AB"[number // 2 % 2]) for name, values in features.items()
                for number in range(0, len(values), 2)}  # fmt: skip
    found = {
        values.tobytes(): (row.slide, row.label) for values, row in zip(cohort.features, cohort.table.itertuples())
    }
    assert found == expected
    pd.concat([patches, patches.iloc[:1].assign(x=5)]).to_parquet(root / "patches.parquet")
    with pytest.raises(InputError, match="1 of 3 patches of 'S0' in the table have no features .* first at x 5, y 0"):
        read(root, **options)
    assert len(read(root, **options, on_error="skip").table) == len(patches)


@pytest.mark.parametrize("kind", ["lists", "numbered"])
def test_a_parquet_table_is_matched_by_slide(data, kind):
    root, features, _ = data
    frame = pd.DataFrame({"slide": [name for name, values in features.items() for _ in values]})
    values = np.concatenate(list(features.values()))
    if kind == "lists":
        frame["embedding"] = list(values)
    else:
        frame = pd.concat([frame, pd.DataFrame(values, columns=[f"f{number}" for number in range(DIM)])], axis=1)
    frame.to_parquet(root / "f.parquet")
    cohort, files = read(root, "f.parquet"), read(root)
    assert np.array_equal(cohort.features, files.features) and cohort.table.equals(files.table)


def test_one_parquet_table_may_have_features_and_metadata(data):
    root, features, rows = data
    frame = rows.loc[np.repeat(np.arange(6), [len(values) for values in features.values()])].reset_index(drop=True)
    frame["embedding"] = list(np.concatenate(list(features.values())))
    frame.sample(frac=1, random_state=0).reset_index(drop=True).to_parquet(root / "all.parquet")
    cohort = read(root, "all.parquet", table="all.parquet")
    assert len(cohort.table) == len(frame)
    means = read(root, "all.parquet", table="all.parquet", pooling="slides")
    assert np.allclose(means.features, [values.mean(0) for values in features.values()], atol=1e-6)


def test_slides_without_features_are_an_error_or_left_out(data):
    root, _, rows = data
    (root / "f" / "S1.h5").rename(root / "f" / "S-1.h5")
    with pytest.raises(InputError, match="1 of 6 slides of the table have no features in .*'S1'; the nearest .*'S-1'"):
        read(root)
    cohort = read(root, on_error="skip")
    assert cohort.table["slide"].nunique() == 5 and len(cohort.notes) == 2
    assert "they are left out" in cohort.notes[0] and "belongs to no slide of the table" in cohort.notes[1]
    rows.assign(slide="T" + rows["slide"]).to_csv(root / "t.csv", index=False)
    with pytest.raises(InputError, match="6 of 6 slides"):
        read(root, on_error="skip")


def test_a_damaged_file_is_an_error_or_left_out_and_another_encoder_always_an_error(data):
    root, _, _ = data
    np.savez(root / "f" / "S0.npz", features=np.full((2, DIM), np.inf))
    with pytest.raises(InputError, match="S0.npz: features of 2 of 2 patches are not finite .*--on_error skip"):
        read(root)
    assert read(root, on_error="skip").table["slide"].nunique() == 5
    np.savez(root / "f" / "S0.npz", features=np.zeros((2, DIM + 1)))
    with pytest.raises(InputError, match="have 4 dimensions and those of 'S1' 3: use one encoder"):
        read(root, on_error="skip")


def test_two_encoders_of_the_same_width_are_told_apart_by_their_names(data):
    root, _, _ = data
    for slide, encoder in (("S1", "uni_v1"), ("S5", "conch_v15")):
        with h5py.File(root / "f" / f"{slide}.h5", "a") as file:
            file["features"].attrs["encoder"] = encoder
    with pytest.raises(InputError, match="'S1' are from the encoder 'uni_v1' and those of 'S5' from 'conch_v15'"):
        read(root, on_error="skip")


def test_a_split_of_the_table_is_read_and_keeps_patients_on_one_side(data, capsys):
    root, _, rows = data
    rows.assign(fold=["Training", "train", "dev", "", "TEST", "train"]).to_csv(root / "t.csv", index=False)
    cohort = read(root, columns={"split": "fold"})
    found = cohort.table.drop_duplicates("slide").set_index("slide")["split"].to_dict()
    # P0 has S0 and S1, P1 has S2 and S3
    assert found == {"S0": "train", "S1": "train", "S2": "val", "S3": "excluded", "S4": "holdout", "S5": "train"}
    assert "split" not in read(root).table and read(root).digest != cohort.digest
    rows.assign(fold=["train", "test", "val", "val", "train", "train"]).to_csv(root / "t.csv", index=False)
    assert read(root, columns={"split": "fold"}).table["split"].value_counts()["excluded"] == 4
    assert "1 rows are excluded because other rows of their patients are held out" in capsys.readouterr().out
    rows.assign(fold="trian").to_csv(root / "t.csv", index=False)
    with pytest.raises(InputError, match="unknown split in t.csv 'trian': did you mean 'train'"):
        read(root, columns={"split": "fold"})
    with pytest.raises(InputError, match="unknown column 'folds'"):
        read(root, columns={"split": "folds"})


def test_rows_that_cannot_be_used_are_an_error_or_left_out(data):
    root, _, rows = data
    rows.assign(label=["", *rows["label"][1:]]).to_csv(root / "t.csv", index=False)
    with pytest.raises(InputError, match=r"t.csv, row 1 \(S0\): no label; 1 row has some problem. To leave"):
        read(root)
    assert "1 row of the table left out" in read(root, on_error="skip").notes[0]
    pd.concat([rows, rows.iloc[:1].assign(center="Z")]).to_csv(root / "t.csv", index=False)
    with pytest.raises(InputError, match="several rows of the table name this image, with different center"):
        read(root)


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"x": "x"}, "a table of patches has both x and y"),
        ({"slide": None, "patient": None}, "name the column of the slide"),
        ({"slides": "slide"}, "unknown role in `columns` 'slides': did you mean 'slide'"),
        ({"slide": "Slide ID"}, "unknown column 'Slide ID'"),
    ],
)
def test_roles_of_columns_are_checked(data, columns, says):
    with pytest.raises(InputError, match=says):
        read(data[0], columns=columns)


def test_features_have_to_be_named_and_exist(data):
    with pytest.raises(InputError, match="no features are given: set --feature_source"):
        features_path(None)
    with pytest.raises(InputError, match="there is no such folder"):
        read(data[0], "g")
