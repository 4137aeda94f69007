"""The effect of compression: distances with it are those of images that Pillow compressed."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from medi_monai.cohort import Cohort
from medi_monai.evaluation.compression import AUTO_QUALITY
from medi_monai.evaluation.compression_effect import compression_effect
from medi_monai.evaluation.embedding import Embedder, ImageSets
from medi_monai.metrics import frechet_distance
from medi_monai.networks.encoders import CompressedEncoder, build_encoder
from medi_monai.utils.pixels import stacked

SIZE, COUNT = 16, 40


def cohort_of(root, seed, quality=None):
    """Smooth noise of two classes, 40 images each of ten patients."""
    root.mkdir()
    rng, rows = np.random.default_rng(seed), []
    for number in range(2 * COUNT):
        image = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).filter(ImageFilter.BLUR)
        if quality:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            image = Image.open(file)
        image.save(root / f"{number}.png")
        rows.append((f"{number}.png", f"p{number // 4}", "0", "0", "1.0", "AB"[number // COUNT]))
    return Cohort(pd.DataFrame(rows, columns=["image", "patient", "x", "y", "mpp", "tumor"]), root)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    images = {"real": cohort_of(root / "real", 0, quality=AUTO_QUALITY), "medi": cohort_of(root / "medi", 1)}
    codes = {name: (cohort.table["tumor"] == "B").to_numpy(int) for name, cohort in images.items()}
    return ImageSets.of(images, {}, [("A",), ("B",)], codes)


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("embedded")


def are_among(rows, features):
    return np.abs(rows[:, None] - features.numpy()[None]).max(2).min(1).max() < 1e-3


def test_compression_brings_uncompressed_images_closer_to_compressed_ones(sets, encoder):
    effect = compression_effect(sets, Embedder(encoder, SIZE), 16)
    assert (effect.quality, effect.num_combinations, effect.n) == (AUTO_QUALITY, 2, 40)
    assert set(effect.plain) == set(effect.compressed) == {"floor", "medi"}
    excess = {name: getattr(effect, name)["medi"] - getattr(effect, name)["floor"] for name in ("plain", "compressed")}
    assert excess["compressed"] < excess["plain"]


def test_distances_are_those_of_the_same_images_in_both_versions(sets, encoder, monkeypatch):
    seen = []

    def spy(first, second):
        seen.append((first, second))
        return frechet_distance(first, second)

    monkeypatch.setattr("medi_monai.evaluation.compression_effect.frechet_distance", spy)
    effect = compression_effect(sets, Embedder(encoder, SIZE), 16)
    # plain and compressed, floor and arm, two combinations of 20 images
    assert len(seen) == 8 and all(len(first) == len(second) == 20 for first, second in seen)
    compressed = CompressedEncoder(encoder, AUTO_QUALITY)
    for version, used, pairs in (("plain", encoder, seen[:4]), ("compressed", compressed, seen[4:])):
        pixels = {name: [np.asarray(Image.open(cohort.root / file)) for file in cohort.table["image"]]
                  for name, cohort in sets.images.items()}  # fmt: skip
        features = {name: used(stacked(held)) for name, held in pixels.items()}
        for first, second in pairs:
            assert are_among(first, features["real"])
            assert are_among(second, features["medi"]) or are_among(second, features["real"])
        expected = np.mean([frechet_distance(*pair) for pair in pairs if are_among(pair[1], features["medi"])])
        assert getattr(effect, version)["medi"] == pytest.approx(expected)


def test_it_does_not_depend_on_whether_the_encoder_compresses(sets, encoder):
    assert compression_effect(sets, Embedder(CompressedEncoder(encoder, AUTO_QUALITY), SIZE), 16) == compression_effect(
        sets, Embedder(encoder, SIZE), 16
    )


def test_features_that_are_there_are_used(sets, encoder):
    features = {}
    for name, cohort in sets.images.items():
        held = [np.asarray(Image.open(cohort.root / file)) for file in cohort.table["image"]]
        features[name] = encoder(stacked(held)).numpy()
    known = compression_effect(replace(sets, features=features), Embedder(encoder, SIZE), 16)
    embedded = compression_effect(sets, Embedder(encoder, SIZE), 16)
    assert known.compressed == embedded.compressed and known.plain == pytest.approx(embedded.plain, rel=1e-3)
    # other features are used as well
    doubled = {name: 2 * values for name, values in features.items()}
    known = compression_effect(replace(sets, features=doubled), Embedder(encoder, SIZE), 16)
    assert known.plain == pytest.approx({name: 4 * value for name, value in embedded.plain.items()}, rel=1e-3)


def test_too_few_images_have_no_effect(sets, encoder):
    assert compression_effect(sets, Embedder(encoder, SIZE), 21) is None
