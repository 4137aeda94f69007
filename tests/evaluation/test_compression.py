"""One compression for all images: which one is chosen, and that features are those of images put through it."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.audit.compression import is_lossy
from medi_monai.evaluation.compression import AUTO_QUALITY, compressed_encoder, compression_findings
from medi_monai.evaluation.embedding import Embedder, embed_images, features_folder
from medi_monai.evaluation.probing import FeatureStore
from medi_monai.evaluation.real_embedding import embed_run
from medi_monai.evaluation.settings import CompressionSettings
from medi_monai.networks.encoders import build_encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import stacked

SIZE = 16


def cohort_of(root, suffix, count=12):
    root.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        image.save(root / f"{number}{suffix}")
        rows.append((f"{number}{suffix}", f"p{number}", "0", "0", "1.0", "AB"[number % 2], "train"))
    return Cohort(pd.DataFrame(rows, columns=["image", "patient", "x", "y", "mpp", "tumor", "split"]), root)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    return cohort_of(tmp_path_factory.mktemp("lossy") / "images", ".jpg")


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    return cohort_of(tmp_path_factory.mktemp("lossless") / "images", ".png")


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("embedded")


def test_whether_images_are_lossy_is_read_from_their_files(lossy, lossless, tmp_path):
    assert is_lossy(lossy) is True and is_lossy(lossless) is False
    assert is_lossy(Cohort(lossy.table, tmp_path)) is None


def test_auto_compresses_only_if_real_images_are_lossy_and_generated_ones_are_not(lossy, lossless, encoder, capsys):
    for arms in ({"medi": lossless}, {"cls": lossy, "medi": lossless}, {}, None):
        assert compressed_encoder(encoder, "auto", lossy, arms).quality == AUTO_QUALITY
    assert f"JPEG of quality {AUTO_QUALITY}" in capsys.readouterr().out
    assert compressed_encoder(encoder, "auto", lossy, {"medi": lossy}) is encoder
    assert compressed_encoder(encoder, "auto", lossless, {"medi": lossless}) is encoder
    assert "none" in capsys.readouterr().out


def test_a_given_compression_is_used_whatever_the_files(lossy, lossless, encoder):
    assert compressed_encoder(encoder, "none", lossy, {"medi": lossless}) is encoder
    compressed = compressed_encoder(encoder, 60, lossless, {"medi": lossless})
    assert compressed.quality == 60
    (finding,) = compression_findings(compressed)
    assert "quality 60" in finding.text and compression_findings(encoder) == []


def test_features_are_those_of_pillows_round_trip_in_a_store_of_their_own(lossless, encoder, tmp_path):
    plain = embed_images(lossless, encoder, tmp_path, SIZE)
    store = embed_images(lossless, compressed_encoder(encoder, 60, lossless), tmp_path, SIZE)
    assert store.folder != plain.folder and not np.array_equal(store.features, plain.features)
    assert store.fingerprint["encoder"]["compression"] == {"scheme": "JPEG", "quality": 60}
    images = []
    for name in lossless.table["image"]:
        file = io.BytesIO()
        Image.open(lossless.root / name).save(file, "JPEG", quality=60)
        images.append(np.asarray(Image.open(file)))
    expected = encoder(stacked(images))
    np.testing.assert_array_equal(store.features, expected.numpy())


def test_what_is_embedded_ahead_is_compressed_too(lossy, encoder, tmp_path):
    embedder = Embedder(encoder, SIZE, features_dir=tmp_path, compression="auto")
    embed_run(lossy, ["tumor"], [], embedder, tmp_path / "ahead")
    (folder,) = features_folder(lossy, tmp_path).iterdir()
    described = FeatureStore.open(folder).fingerprint["encoder"]
    assert described == compressed_encoder(encoder, AUTO_QUALITY, lossy).describe()


@pytest.mark.parametrize("given", ["auto", "none", "AUTO", 1, 75, 100])
def test_settings(given):
    known = CompressionSettings(compression=given).compression
    assert known == (given.lower() if isinstance(given, str) else given)
    assert CompressionSettings().compression == "auto"


@pytest.mark.parametrize("given", [0, 101, 75.5, "jpeg", True, None])
def test_wrong_settings(given):
    with pytest.raises(InputError, match="auto, none, or a JPEG quality from 1 to 100"):
        CompressionSettings(compression=given)
