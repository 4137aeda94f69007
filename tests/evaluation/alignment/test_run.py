import json
import math

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.cohort import Cohort
from medi_monai.evaluation.alignment.inputs import GeneratedImages, RealImages, TargetSource
from medi_monai.evaluation.alignment.predictions import predict_arm
from medi_monai.evaluation.alignment.quality import subgroup_diversity
from medi_monai.evaluation.alignment.run import evaluate_alignment_run
from medi_monai.evaluation.embedding import Embedder, ImageSets
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.metrics.resampling import wilson_interval
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.encoders import build_encoder
from medi_monai.results import Figure, plain, read_results, read_schema
from medi_monai.results.alignment import AlignmentMetrics
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, write_json

SIZE, VALUES = 16, ("dark", "bright")
SETTINGS = FidelitySettings(min_images=8, num_replicates=10, num_halves=2, neighbors=3)
PROMPTS = ("a plain picture", "a picture of noise")


class Brightness(AttributeClassifier):
    """Reads the truth: whether an image is brighter than its threshold."""

    def __init__(self, attribute="shade", values=VALUES, threshold=0.0):
        super().__init__({attribute: values}, None)
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        bright = list(values).index("bright")
        self.register_buffer("sign", torch.tensor([1.0 if place == bright else -1.0 for place in range(2)]))

    def logits(self, images):
        return (images.mean((1, 2, 3)) - self.threshold)[:, None] * self.sign * 50


def picture(rng, value):
    return np.clip(rng.normal(70 if value == "dark" else 190, 30, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def sampled(root, shades, seed, prompts=PROMPTS, **columns):
    """A sampling run: row n has the prompt n modulo their number, and its noise."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number, value in enumerate(shades):
        name = f"images/{number:03d}.png"
        Image.fromarray(picture(np.random.default_rng([seed, number]), value)).save(root / name)
        rows.append((name, prompts[number % len(prompts)], str(number), "0"))
    pd.DataFrame(rows, columns=["image", "caption", "number", "seed"]).assign(**columns).to_csv(
        root / "manifest.csv", index=False
    )
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("subgroups"), np.random.default_rng(5)
    rows = [(f"{p}_{n}.png", f"{p}", VALUES[p % 10 < 2], "val" if p >= 20 else "train")
            for p in range(30) for n in range(3)]  # fmt: skip
    (root / "cohort").mkdir()
    for name, _, value, _ in rows:
        Image.fromarray(picture(rng, value)).save(root / "cohort" / name)
    table = pd.DataFrame(rows, columns=["image", "patient", "shade", "split"]).assign(x="0", y="0", mpp="1.0")
    cohort = Cohort(table, root / "cohort")
    # 12 of 60 are bright before; after, the first 18 dark ones have become so
    before = ["bright"] * 12 + ["dark"] * 48
    after = ["bright"] * 30 + ["dark"] * 30
    arms = {"before": sampled(root / "before", before, 1), "after": sampled(root / "after", after, 1)}
    return cohort, arms, root


@pytest.fixture
def judge():
    return Brightness()


def run(data, tmp_path, judge=None, target=None, **more):
    cohort, arms, _ = data
    images = GeneratedImages(more.pop("arms", arms), more.pop("named", None))
    source = more.pop("source", TargetSource(target or {"dark": 0.5, "bright": 0.5}))
    classifiers = {"judge": judge or Brightness(), "guide": more.pop("guide", None)}
    embedder, real = Embedder(build_encoder("embedded"), SIZE), RealImages(cohort, more.pop("reference", None))
    given = {"settings": SETTINGS, **more}
    return evaluate_alignment_run(images, real, source, classifiers, embedder, tmp_path / "out", **given)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Before and after, with nothing else."""
    return run(data, tmp_path_factory.mktemp("alone"))


def test_the_run_finds_what_is_known(data, tmp_path, capsys):
    alignment = {
        "target": {"attributes": ["shade"], "target": {"dark": 0.5, "bright": 0.5}},
        "kept_step": 10,
        "curve": [{"step": s, **{name: {"distance": 0.3 - s / 50, "proportions": {}}
                                 for name in ("guide", "validation", "judge")}} for s in (0, 10)],
    }  # fmt: skip
    (tmp_path / "alignment.json").write_text(json.dumps(alignment))
    guide = Brightness(values=("bright", "dark"), threshold=0.02)
    metrics = run(data, tmp_path, guide=guide, alignment=tmp_path)
    assert read_results(tmp_path / "out" / "metrics.json", AlignmentMetrics) == metrics
    jsonschema.validate(read_json(tmp_path / "out" / "metrics.json"), read_schema("metrics"))
    for arm, bright in (("before", 12), ("after", 30)):
        share = metrics.proportions[arm]["shade"]["bright"]
        assert share.value == bright / 60 and share.n == 60
        assert share.ci95 == pytest.approx(wilson_interval(bright, 60))
        distances = metrics.distance_to_target[arm]["shade"]
        p = bright / 60
        assert distances.total_variation.value == pytest.approx(abs(p - 0.5))
        assert distances.kl.value == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
        # a guide with its values in another order says the same of images as far apart as these
        assert metrics.readers["guide"].proportions[arm]["shade"]["bright"].value == share.value
    assert metrics.training["shade"]["bright"].value == pytest.approx(0.2)
    assert metrics.change["after"]["shade"].value == pytest.approx(-0.3)
    assert [row.step for row in metrics.curve.rows] == [0, 10] and metrics.curve.kept_step == 10
    assert metrics.curve.rows[1].classifiers["judge"].distance == pytest.approx(0.1)
    pairs = metrics.consistency["after"]
    assert (pairs.num_stayed, pairs.num_changed) == (42, 18)
    # before and after, image n has the same noise; the 42 that kept their shade are the same images but for the seed
    assert pairs.stayed.n == 42 and pairs.changed.value < pairs.stayed.value and metrics.clip_score["after"].n == 0
    # so few images show nothing of the distances within subgroups
    assert metrics.verdict["after"].answer == "quality not shown"
    # the judge came without figures of its own, and was right of all real images
    assert metrics.judge.held_out["shade"].accuracy.value == 1
    assert any("came without held-out accuracies" in warning.text for warning in metrics.warnings)
    fidelity = metrics.fidelity["all"]
    # 18 real images are bright: the target takes as many dark ones
    assert fidelity.counts == {"before": 60, "after": 60, "reference": 36} and fidelity.matched == 18
    assert fidelity.arms["after"].ratio.value < 1
    assert metrics.fidelity["bright"].counts == {"before": 12, "after": 30, "reference": 18}
    table = pd.read_csv(tmp_path / "out" / "metrics.csv", keep_default_na=False)
    row = table.query("arm == 'after' and metric == 'proportion of shade' and group == 'bright' and reader == 'judge'")
    assert float(row["value"].item()) == 0.5
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["figures"]["answer"] == {"after": "quality not shown"}
    assert "evaluation: done" in capsys.readouterr().out.splitlines()[-1]


def test_prompts_and_named_prompts(data, tmp_path):
    asked = ("a dark picture", "a bright picture")
    shades = ["dark", "bright"] * 20
    named = {
        "before": sampled(tmp_path / "b", shades, 3, asked),
        "after": sampled(tmp_path / "a", ["bright"] * 4 + shades[4:], 3, asked),
    }
    metrics = run(data, tmp_path, named=named)
    before, after = (metrics.named_prompts["shade"][arm] for arm in ("before", "after"))
    assert before.share == Figure(1.0, tuple(wilson_interval(40, 40)), 40)
    assert after.by_value["dark"].value == 18 / 20 and after.by_value["bright"].value == 1
    assert after.ratio.value == pytest.approx(38 / 40) and after.ratio.n == 40
    rows = {row.prompt: row.arms for row in metrics.by_prompt["shade"].prompts}
    assert set(rows) == set(PROMPTS)
    shares = rows[PROMPTS[0]]["before"]
    assert shares.n == 30 and not shares.few and shares.proportions["bright"].value == 6 / 30
    with pytest.raises(InputError, match="no prompt of the named ones names a value"):
        run(data, tmp_path, named=data[1])


def test_input_errors(data, tmp_path):
    cohort, arms, root = data
    with pytest.raises(InputError, match="needs 'before' and 'after'"):
        run(data, tmp_path, arms={"before": arms["before"], "later": arms["after"]})
    with pytest.raises(InputError, match="contains no manifest.csv"):
        run(data, tmp_path, arms={**arms, "after": tmp_path})
    with pytest.raises(InputError, match="no prompt in common"):
        run(data, tmp_path, arms={**arms, "after": sampled(tmp_path / "x", ["dark"] * 4, 0, ("another thing",))})
    with pytest.raises(InputError, match="unknown attribute 'sex'"):
        run(data, tmp_path, target={"sex": {"f": 0.5, "m": 0.5}, "shade": {"dark": 0.5, "bright": 0.5}})
    with pytest.raises(InputError, match="sums to 0.9"):
        run(data, tmp_path, target={"dark": 0.5, "bright": 0.4})
    with pytest.raises(InputError, match="the judge and the guide classifier are the same"):
        run(data, tmp_path, guide=Brightness())
    with pytest.raises(InputError, match="unknown attribute of the classifier 'shade'"):
        run(data, tmp_path, guide=Brightness("tone", threshold=0.1))
    with pytest.raises(InputError, match="the judge as"):
        run(data, tmp_path, guide=Brightness(values=("black", "bright"), threshold=0.1))
    with pytest.raises(InputError, match="tolerance = 5"):
        run(data, tmp_path, tolerance=5)
    with pytest.raises(InputError, match="there is no target"):
        run(data, tmp_path, source=TargetSource())
    with pytest.raises(InputError, match="no record of `aligning` at .*gone.*--alignment"):
        run(data, tmp_path, alignment=tmp_path / "gone")
    pd.DataFrame({"shade": ["dark", "bright"]}).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(InputError, match="target is not 'table'"):
        run(data, tmp_path, source=TargetSource(table=tmp_path / "table.csv"))
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_arms_that_are_swapped_are_refused(data, tmp_path):
    folders = {name: sampled(tmp_path / name, ["dark", "bright"] * 15, 1) for name in ("untuned", "tuned")}
    for name, folder in folders.items():
        write_json(folder / "sampling.json", {"checkpoint": name})
    rows = [{"step": step, "guide": {"distance": 0.1, "proportions": {}}} for step in (0, 10)]
    record = {"curve": rows, "kept_step": 10, "untuned_sha256": "untuned", "target": {}}

    def evaluated(before, after, kept):
        write_json(tmp_path / "alignment.json", {**record, "kept_step": kept})
        arms = {"before": folders[before], "after": folders[after]}
        return run(data, tmp_path, arms=arms, alignment=tmp_path / "alignment.json")

    with pytest.raises(InputError, match="'before' .* are not of the model that was tuned.* swapped"):
        evaluated("tuned", "untuned", 10)
    with pytest.raises(InputError, match="'after' .* are of the untuned model"):
        evaluated("untuned", "untuned", 10)
    # weights that no update made better are those of before
    metrics = evaluated("untuned", "untuned", 0)
    assert any("the original weights were kept" in warning.text for warning in metrics.warnings)


def test_arms_without_pairs_are_pointed_out(data, tmp_path):
    numbers = [str(1000 + number) for number in range(60)]
    other = sampled(tmp_path / "other", ["bright"] * 30 + ["dark"] * 30, 1, number=numbers)
    metrics = run(data, tmp_path, arms={**data[1], "after": other})
    assert any("Consistency could not be measured" in warning.text for warning in metrics.warnings)


def test_a_judge_at_chance_is_warned_of_with_its_accuracy(data, tmp_path):
    blind = Brightness(threshold=0.0)
    blind.held_out = {"shade": {
        "values": list(VALUES), "chance": 0.5, "n": 60, "num_patients": 60, "confusion": [[15, 15], [15, 15]],
        "balanced_accuracy": {"value": 0.5, "ci95": [0.4, 0.6], "n": 60},
        "recall": {value: {"value": 0.5, "ci95": None, "n": 30} for value in VALUES},
    }}  # fmt: skip
    metrics = run(data, tmp_path, judge=blind)
    (warning,) = [warning for warning in metrics.warnings if "chance level" in warning.text]
    assert warning.level == "error" and "0.500 (0.400" in warning.text
    corrected = metrics.distance_to_target["after"]["shade"].corrected
    assert corrected.total_variation.value is None and "better than chance" in corrected.undefined
    assert metrics.verdict["after"].answer == "undecided"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("chance level") < page.index("The result is undecided")
    assert "chance level" in page and "not corrected" in page


def test_a_collapsed_subgroup_is_less_diverse(data, tmp_path):
    root = sampled(tmp_path / "same", ["dark"] * 10, 1)
    pixels = Image.open(root / "images" / "000.png")
    for path in sorted((root / "images").glob("*.png")):
        pixels.save(path)
    images = {"before": Cohort(pd.read_csv(data[1]["before"] / "manifest.csv"), data[1]["before"])}
    images["after"] = Cohort(pd.read_csv(root / "manifest.csv"), root)
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    codes = {"before": np.array([1] * 12 + [0] * 48), "after": np.zeros(10, int)}
    features = {"before": np.random.default_rng(0).normal(size=(60, 4)), "after": np.ones((10, 4))}
    made = subgroup_diversity(ImageSets.of(images, features, part.values, codes, "before"), SIZE)
    assert made["dark"]["after"]["ms_ssim"]["value"] == pytest.approx(0, abs=1e-6)
    assert made["dark"]["after"]["features"]["value"] == 0 and made["dark"]["before"]["features"]["value"] > 1
    assert made["bright"]["after"]["ms_ssim"] | {"ratio": None} == {"value": None, "ci95": None, "n": 0, "ratio": None}


def test_the_order_of_rows_does_not_matter(data, alone, tmp_path):
    cohort, arms, _ = data
    shuffled = Cohort(cohort.table.sample(frac=1, random_state=0).reset_index(drop=True), cohort.root)
    again = run((shuffled, arms, None), tmp_path)
    for name in ("proportions", "distance_to_target", "fidelity", "diversity"):
        one, two = (json.dumps(plain(getattr(metrics, name))) for metrics in (alone, again))
        numbers = [json.loads(text, parse_float=lambda x: round(float(x), 6)) for text in (one, two)]
        assert numbers[0] == numbers[1]


def test_clip_sees_the_images_and_their_prompts(data):
    pytest.importorskip("transformers")
    from medi_monai.networks.text import ClipModel, make_tokenizer, save_clip, small_clip

    cohort = Cohort(pd.read_csv(data[1]["before"] / "manifest.csv", dtype=str), data[1]["before"])
    torch.manual_seed(0)
    tokenizer = make_tokenizer(PROMPTS)
    folder = save_clip(small_clip(tokenizer, 16, 8, 32, 1, 2, 16), tokenizer, data[2] / "clip")
    clip = ClipModel(folder)
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    made = predict_arm(cohort, {"judge": Brightness()}, [part], SIZE, clip, "caption", batch_size=7)
    row = 17
    pixels = np.asarray(Image.open(cohort.root / cohort.table["image"][row]))
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert made.scores[row] == pytest.approx(float(clip.score(image, [cohort.table["caption"][row]])), abs=1e-5)
    assert made.codes["judge"]["shade"].tolist() == [1] * 12 + [0] * 48


def test_a_small_further_arm_takes_no_images_from_the_answer(data, alone, tmp_path):
    cohort, arms, root = data
    alone = alone.fidelity["all"]
    small = sampled(tmp_path / "small", ["bright"] * 10 + ["dark"] * 2, 7)
    tiny = sampled(tmp_path / "tiny", ["bright"] * 4, 8)
    beside = run(data, tmp_path, arms={**arms, "small": small, "tiny": tiny}).fidelity["all"]
    for arm in ("before", "after"):
        assert beside.arms[arm].frechet_distance == alone.arms[arm].frechet_distance
    assert beside.matched == alone.matched == 18
    assert beside.arms["small"].frechet_distance.n == beside.arms["small"].ratio.n == 12
    assert beside.arms["tiny"].frechet_distance == Figure(None, None, 4)


def test_seeds_of_a_tuning_are_evaluated_together(data, alone, tmp_path):
    _, arms, _ = data
    second = sampled(tmp_path / "second", ["bright"] * 24 + ["dark"] * 36, 1)
    metrics = run(data, tmp_path, arms={"before": arms["before"], "after": [arms["after"], second]})
    share, of_one = (made.proportions["after"]["shade"]["bright"] for made in (metrics, alone))
    assert share.value == pytest.approx((30 + 24) / 120) and share.n == 120
    low, high = share.ci95
    assert high - low > of_one.ci95[1] - of_one.ci95[0]
    assert metrics.seeds["after"].distance_to_target == pytest.approx((0, 0.1)) and not alone.seeds
    assert set(metrics.proportions) == set(metrics.verdict) | {"before"} == {"before", "after"}
    assert any("run with 2 seeds" in warning.text for warning in metrics.warnings)
    assert any("The tuning was run with one seed" in warning.text for warning in alone.warnings)
    assert read_results(tmp_path / "out" / "metrics.json", AlignmentMetrics) == metrics
    with pytest.raises(InputError, match="give a list of different folders"):
        run(data, tmp_path, arms={"before": arms["before"], "after": [arms["after"]] * 2})


class TwoAttributes(AttributeClassifier):
    """Reads brightness, and which side is the brighter."""

    def __init__(self):
        super().__init__({"shade": VALUES, "side": ("left", "right")}, None)
        self.scale = torch.nn.Parameter(torch.tensor(50.0))

    def logits(self, images):
        first = images.mean((1, 2, 3))
        second = images[..., SIZE // 2 :].mean((1, 2, 3)) - images[..., : SIZE // 2].mean((1, 2, 3))
        return self.scale * torch.stack([-first, first, -second, second], 1)


def test_two_attributes_go_by_their_joint(data, tmp_path):
    cohort, arms, _ = data
    joint = {f"{shade}|{side}": 0.25 for shade in VALUES for side in ("left", "right")}
    real = Cohort(cohort.table.assign(side=["left", "right", ""] * 30), cohort.root)
    metrics = run((real, arms, None), tmp_path, TwoAttributes(), joint)
    assert metrics.part == "shade|side" and set(metrics.target.parts) == {"shade", "side", "shade|side"}
    assert metrics.proportions["before"]["shade"]["bright"].value == 12 / 60
    codes = []
    for row in pd.read_csv(arms["before"] / "manifest.csv").itertuples():
        pixels = np.asarray(Image.open(arms["before"] / row.image), float)
        codes.append(2 * (pixels.mean() > 127.5) + (pixels[:, SIZE // 2 :].mean() > pixels[:, : SIZE // 2].mean()))
    read = metrics.proportions["before"]["shade|side"]
    assert [share.value * 60 for share in read.values()] == pytest.approx(np.bincount(codes, minlength=4))
    in_subgroup = metrics.fidelity["bright|left"].counts["reference"]
    assert metrics.fidelity["all"].counts["reference"] == 4 * in_subgroup
    assert metrics.training["side"]["left"].n == 40
    assert set(metrics.by_prompt) == {"shade", "side", "shade|side"}
