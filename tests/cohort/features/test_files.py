"""Features of TRIDENT and CLAM are read as they are; what is damaged, or no features, is one line; nothing is run."""

import pickle

import h5py
import numpy as np
import pytest

from medi_monai.cohort.features.files import SlideFeatures, list_feature_files, read_feature_file
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
FEATURES, COORDS = RNG.normal(size=(6, 4)), np.stack([np.arange(6) * 512, np.arange(6)], 1)


def write_h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("write, suffix", [(write_h5, "h5"), (write_h5, "hdf5"), (write_npz, "npz")])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_features_and_coords_are_read_as_written(tmp_path, write, suffix, kind):
    path = write(tmp_path / f"a.{suffix}", features=FEATURES.astype(kind), coords=COORDS, annots=np.arange(3))
    read = read_feature_file(path)
    assert read.features.dtype == np.float32 and np.array_equal(read.coords, COORDS)
    assert np.array_equal(read.features, FEATURES.astype(kind).astype("float32"))


def test_a_batch_dimension_a_single_row_and_another_name_are_understood(tmp_path):
    batch = read_feature_file(write_h5(tmp_path / "a.h5", features=FEATURES[None], coords=COORDS[None]))
    assert batch.features.shape == (6, 4) and batch.coords.shape == (6, 2)
    assert read_feature_file(write_h5(tmp_path / "b.h5", features=FEATURES[0])).features.shape == (1, 4)
    named = read_feature_file(write_npz(tmp_path / "c.npz", embedding=FEATURES, index=np.arange(6)))
    assert named.features.shape == (6, 4) and named.coords is None


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"features": np.full((6, 4), np.nan)}, r"features of 6 of 6 patches are not finite .* the first in row 0"),
        ({"features": FEATURES * 1e300}, "are not finite"),
        ({"features": np.empty((0, 4))}, r"has no patches: its features have the shape \(0, 4\)"),
        ({"features": np.zeros((2, 3, 4))}, r"the shape \(2, 3, 4\), which should be patches by features"),
        ({"features": np.array(3.0)}, "which should be patches by features"),
        ({"features": np.zeros((6, 4), complex)}, "features are complex128, not numbers"),
        ({"features": FEATURES, "coords": COORDS[:3]}, r"coords have the shape \(3, 2\), which should be \(6, 2\)"),
        ({"feature": FEATURES, "other": FEATURES}, "unknown array 'features': did you mean 'feature'"),
        ({"coords": COORDS}, "unknown array 'features'"),
    ],
)
@pytest.mark.parametrize("write, suffix", [(write_h5, "h5"), (write_npz, "npz")])
def test_what_is_no_features_is_one_line_with_the_file(tmp_path, write, suffix, arrays, says):
    path = write(tmp_path / f"slide.{suffix}", **arrays)
    with pytest.raises(InputError, match=says) as caught:
        read_feature_file(path)
    assert "\n" not in str(caught.value) and "slide" in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_python_objects_are_never_loaded(tmp_path):
    path = write_npz(tmp_path / "a.npz", features=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="contains Python objects, which are not read because they may run code"):
        read_feature_file(path)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="is not a .npz file"):
        read_feature_file(tmp_path / "b.npz")
    text = write_h5(tmp_path / "c.h5", features=["a", "b"])
    with pytest.raises(InputError, match="features are Python objects, not numbers"):
        read_feature_file(text)


@pytest.mark.parametrize("write, suffix", [(write_h5, "h5"), (write_npz, "npz")])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_one_line(tmp_path, write, suffix, share):
    path = write(tmp_path / f"a.{suffix}", features=FEATURES, coords=COORDS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cannot read the features in|is not a .npz file"):
        read_feature_file(path)


@pytest.mark.parametrize(
    "attributes, encoder",
    [
        ({"encoder": "uni_v1", "savetodir": "/data/mine"}, "uni_v1"),
        ({"encoder": "None", "savetodir": "/data/20x_256px/features_virchow/"}, "virchow"),
        ({"savetodir": "/data/mine"}, None),
        ({"encoder": 3}, None),
        ({}, None),
    ],
)
def test_the_encoder_is_that_of_trident(tmp_path, attributes, encoder):
    path = write_h5(tmp_path / "a.h5", features=FEATURES, coords=COORDS)
    with h5py.File(path, "a") as file:
        file["features"].attrs.update(attributes)
    read = read_feature_file(path)
    assert read.encoder == encoder and read.features.shape == (6, 4)


def test_a_link_within_hdf5_is_not_followed_to_another_file(tmp_path):
    write_h5(tmp_path / "secret.h5", features=FEATURES)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = h5py.ExternalLink("secret.h5", "features")
    with pytest.raises(InputError, match="unknown array 'features'"):
        read_feature_file(tmp_path / "a.h5")


def test_without_h5py_the_remedy_is_named(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "a.h5", features=FEATURES)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r'h5py is needed to read a.h5 .*pip install "medi_monai\[features\]"'):
        read_feature_file(path)


def test_files_are_listed_in_the_folder_or_in_its_only_subfolder(tmp_path):
    with pytest.raises(InputError, match="contains no .h5, .hdf5, .npz file"):
        list_feature_files(tmp_path)
    inner = tmp_path / "20x_256px" / "features_uni_v1"
    inner.mkdir(parents=True)
    for name in ("B.h5", "A.svs.npz", "notes.txt", ".hidden.h5"):
        (inner / name).write_bytes(b"x")
    assert list_feature_files(tmp_path) == {"A.svs": inner / "A.svs.npz", "B": inner / "B.h5"}
    (inner / "B.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="are both of 'B': keep one"):
        list_feature_files(tmp_path)
    (tmp_path / "20x_256px" / "features_conch").mkdir()
    (tmp_path / "20x_256px" / "features_conch" / "B.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"2 folders in it contain features \(20x_256px/features_conch, 20x_256px/f"):
        list_feature_files(tmp_path)


def test_arrays_in_memory_are_checked_alike():
    assert SlideFeatures.checked(np.arange(4), None, "here").features.shape == (1, 4)
    with pytest.raises(InputError, match="^here: coords are <U1, not numbers"):
        SlideFeatures.checked(FEATURES, np.full((6, 2), "a"), "here")
