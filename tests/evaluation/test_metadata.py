import json

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import medi_monai.evaluation.metadata as module
from medi_monai.cohort import Cohort
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.metadata import evaluate_run
from medi_monai.networks.encoders import build_encoder
from medi_monai.networks.encoders.pretrained import ModuleEncoder
from medi_monai.results import plain, read_results, read_schema
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, write_json

LABELS, CENTERS, SIZE = ("A", "B"), ("n", "s", "w"), 16
SETTINGS = FidelitySettings(min_images=8, num_replicates=10, num_halves=2, neighbors=3)


def picture(rng, label, center):
    pixels = rng.integers(0, 90, (SIZE, SIZE, 3)) + 40 * CENTERS.index(center)
    pixels[::2] += 50 * LABELS.index(label)
    return pixels.astype(np.uint8)


def write(root, table, rng, shown=None):
    root.mkdir()
    for row in table.itertuples():
        Image.fromarray(picture(rng, row.project_id, shown or row.center)).save(root / row.image)
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("evaluation"), np.random.default_rng(0)
    rows = [
        (f"{x}{y}{p}_{n}.png", f"{x}{y}{p}", "0", "0", "1.0", x, y, "holdout" if (x, y) == ("A", "n") else "train")
        for x in LABELS
        for y in CENTERS
        for p in range(4)
        for n in range(6)
    ]
    columns = ["image", "patient", "x", "y", "mpp", "project_id", "center", "split"]
    cohort = Cohort(write(root / "cohort", pd.DataFrame(rows, columns=columns), rng), root / "cohort")
    arms = {}
    for arm, shown in (("good", None), ("bad", "s")):
        # few images of one combination
        names = [(f"{x}{y}{n}.png", x, y) for x in LABELS for y in CENTERS for n in range(5 if x + y == "Bw" else 12)]
        table = write(root / arm, pd.DataFrame(names, columns=["image", "project_id", "center"]), rng, shown)
        table.to_csv(root / arm / "manifest.csv", index=False)
        arms[arm] = root / arm
    return cohort, arms


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "write_evaluation_page", lambda metrics, closest, path, samples: write_json(path, "page")
    )

    def go(cohort=data[0], arms=data[1], settings=SETTINGS, **more):
        embedder = Embedder(build_encoder("embedded"), SIZE)
        return evaluate_run(
            cohort, arms, "project_id", ["center"], embedder, tmp_path / "out", settings, (0.01, 1.0), **more
        )

    return go


def test_the_results_are_written_and_tell_a_good_arm_from_a_bad_one(run, tmp_path):
    metrics = run()
    assert read_results(tmp_path / "out" / "metrics.json", ArmsMetrics) == metrics
    jsonschema.validate(read_json(tmp_path / "out" / "metrics.json"), read_schema("metrics"))
    good, bad = (metrics.arms[arm].frechet_distance for arm in ("good", "bad"))
    assert good.mean.value < 2 * good.floor.value < bad.mean.value
    assert good.mean.num_combinations == 5 and good.mean.n == 60
    assert good.unseen.num_combinations == 1 and good.seen.num_combinations == 4
    rows = {tuple(row.values.values()): row for row in good.by_combination}
    assert rows["B", "w"].value is None and rows["B", "w"].counts == {"real": 24, "good": 5, "bad": 5}
    assert not rows["A", "n"].seen and rows["B", "n"].seen and rows["A", "s"].n == 12
    assert good.by_label["A"].pooled.n == 36 and good.by_label["B"].pooled.n == 24
    assert metrics.arms["good"].attribute_fidelity["center"].value > 0.9
    assert metrics.arms["bad"].attribute_fidelity["center"].value < 0.5
    assert metrics.arms["good"].memorization.copies.value == 0
    assert metrics.arms["good"].diversity.n == metrics.real.diversity.n == 5
    compared = metrics.comparison("bad", "good")
    assert compared.ratio_of_means < 0.6 and compared.log_ratio.n == 5
    table = pd.read_csv(tmp_path / "out" / "metrics.csv")
    mean = table.query("arm == 'good' and metric == 'frechet_distance' and part == 'mean'")["value"].item()
    assert mean == pytest.approx(good.mean.value)


def test_the_order_of_rows_does_not_matter(run, data):
    first = run()
    shuffled = data[0].table.sample(frac=1, random_state=0).reset_index(drop=True)
    again = run(cohort=Cohort(shuffled, data[0].root))
    for arm in ("good", "bad"):
        for name in ("frechet_distance", "precision", "label_fidelity", "memorization", "diversity"):
            one, two = (json.dumps(plain(getattr(metrics.arms[arm], name))) for metrics in (first, again))
            numbers = [json.loads(text, parse_float=lambda x: round(float(x), 6)) for text in (one, two)]
            assert numbers[0] == numbers[1]


def test_figures_of_pixels_can_be_left_out_and_the_others_stay(run):
    whole, features_alone = run(), run(pixel_figures=False)
    assert features_alone.real.copy_search is None and features_alone.real.memorization.copies.n == 0
    assert features_alone.settings["pixel_figures"] is False
    for arm in ("good", "bad"):
        one, other = whole.arms[arm], features_alone.arms[arm]
        assert one.frechet_distance == other.frechet_distance and one.label_fidelity == other.label_fidelity
        assert one.memorization.nearer == other.memorization.nearer
        assert one.memorization.distance == other.memorization.distance and one.diversity.n
        undefined = (other.memorization.copies, other.diversity, other.pixel_variance)
        assert [(figure.value, figure.n) for figure in undefined] == [(None, 0)] * 3
    assert features_alone.copying_arms == []


def test_nothing_to_compare_is_one_clear_error(run, data):
    with pytest.raises(InputError, match="no combination of .* has 40 images"):
        run(settings=FidelitySettings(min_images=40))
    other = Cohort(data[0].table.assign(center="elsewhere"), data[0].root)
    with pytest.raises(InputError, match="no combination of"):
        run(cohort=other)


class AlwaysTheSame(torch.nn.Module):
    """A network whose features are the same for all images."""

    def forward(self, pixels):
        return torch.ones(len(pixels), 4)


def test_an_encoder_that_does_not_see_the_images_is_told_and_a_real_one_is_not(data, tmp_path):
    told = {}
    for encoder in (ModuleEncoder(AlwaysTheSame(), "blank", 4), build_encoder("embedded")):
        folder = tmp_path / encoder.name
        embedder = Embedder(encoder, SIZE, features_dir=folder / "features")
        metrics = evaluate_run(*data, "project_id", ["center"], embedder, folder, SETTINGS, (0.01,))
        told[encoder.name] = [finding.name for finding in metrics.warnings]
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert ("does not distinguish images" in page) == (encoder.name == "blank")
        assert 'class="gallery"' in page
    assert "blank_encoder" in told["blank"] and "blank_encoder" not in told["embedded"]
