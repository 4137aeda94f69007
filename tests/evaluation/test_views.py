"""The real images and their views, embedded ahead: the features are those that probing would compute."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import medi_monai.evaluation.embedding as embedding
from medi_monai.cohort import Cohort
from medi_monai.engines.distributed import torchrun_session
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.metadata import evaluate_run
from medi_monai.evaluation.probing.run import probe_run
from medi_monai.evaluation.real_embedding import embed_run
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.views import embed_real_views, normalizing
from medi_monai.networks.encoders import build_encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json
from medi_monai.wsi.transforms import patch_transforms

SIZE, BASELINES = 16, ("stain_normalized", "stain_augmented")
SETTINGS = ProbeSettings(num_repeats=1, sweep_repeats=0, c_values=[1.0], probe_replicates=2, num_augmented=2)


@pytest.fixture
def cohort(tmp_path):
    rng, rows = np.random.default_rng(0), []
    (tmp_path / "cohort").mkdir()
    for number in range(48):
        pixels = rng.integers(60, 250, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cohort" / f"{number}.png")
        split = ("train", "train", "val", "holdout")[number // 2 % 4]
        rows.append((f"{number}.png", f"p{number // 2}", "0", "0", "1.0", "AB"[number % 2], "ns"[number // 24], split))
    columns = ["image", "patient", "x", "y", "mpp", "project_id", "center", "split"]
    table = pd.DataFrame(rows, columns=columns)
    # without a center, an image is not used
    table.loc[0, "center"] = ""
    return Cohort(table, tmp_path / "cohort")


@pytest.fixture
def embedded(monkeypatch):
    """Numbers of images that are embedded."""
    counts, fill = [], embedding._fill

    def counted(store, blocks, *arguments):
        counts.append(sum(len(store.rows(block)) for block in blocks))
        fill(store, blocks, *arguments)

    monkeypatch.setattr(embedding, "_fill", counted)
    return counts


def test_what_is_embedded_ahead_is_found_by_evaluation_and_probing(cohort, tmp_path, embedded):
    embedder = Embedder(build_encoder("embedded"), SIZE)
    embed_run(cohort, ["project_id", "center"], BASELINES, embedder, tmp_path / "ahead", SETTINGS)
    assert embedded == [47] * 4
    summary = read_json(tmp_path / "ahead" / "summary.json")
    assert summary["run"] == "embedding" and summary["made"] == {"images": 47, "views": 4}
    assert summary["digests"] == {"cohort": cohort.digest}
    probe_run(
        cohort, {}, "project_id", ["center"], None, BASELINES, embedder, tmp_path / "out", SETTINGS, num_workers=1
    )
    with pytest.raises(InputError, match="no arms"):
        evaluate_run(cohort, {}, "project_id", ["center"], embedder, tmp_path / "evaluation")
    assert embedded == [47] * 4
    embed_run(cohort, ["project_id", "center"], BASELINES, embedder, tmp_path / "ahead", SETTINGS)
    assert embedded == [47] * 4


def test_views_are_embeddings_of_transformed_images(cohort, tmp_path):
    encoder = build_encoder("embedded")
    embedder = Embedder(encoder, SIZE, features_dir=tmp_path / "features")
    with torchrun_session() as shard:
        views, augmented = embed_real_views(cohort, BASELINES, SETTINGS, embedder, shard)
        plain, none = embed_real_views(cohort, ["reweighted"], SETTINGS, embedder, shard)
    assert list(views) == ["real", "stain_normalized"] and len(augmented) == 2 and list(plain) == ["real"] and not none
    images = np.stack([np.asarray(Image.open(cohort.root / name)) for name in cohort.table["image"]])
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert np.allclose(views["real"].features, encoder(batch), atol=1e-5)
    normalize = patch_transforms(geometry=False, normalize=SETTINGS.normalization)
    normalized = torch.stack([normalize({"image": image})["image"] for image in batch])
    assert np.allclose(views["stain_normalized"].features, encoder(normalized), atol=1e-4)
    assert normalizing(SETTINGS)["recipe"] == {"normalized": "macenko"}
    first, second = (np.asarray(copy.features) for copy in augmented)
    assert not np.allclose(first, second) and not np.allclose(first, views["real"].features)
