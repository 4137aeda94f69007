import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.alignment import make_target
from medi_monai.cohort import Cohort
from medi_monai.engines.fidelity import FidelitySettings
from medi_monai.engines.subgroup_figures import Looked, change_of_distance, look, of_prompts, part_figures, parts_of
from medi_monai.engines.subgroup_pairs import consistency, obedience, same_noise
from medi_monai.engines.subgroup_quality import diversity, feature_spread, target_rows
from medi_monai.engines.subgroup_verdict import alignment_verdict, curve_rises
from medi_monai.engines.subgroups import _dealt, evaluate_alignment_run
from medi_monai.metrics.memorization import wilson_interval
from medi_monai.networks.classifier import AttributeClassifier, SubgroupClassifier, load_classifier, save_classifier
from medi_monai.networks.encoders import build_encoder
from medi_monai.utils.errors import InputError

SIZE, VALUES = 16, ("dark", "bright")
SETTINGS = FidelitySettings(min_images=8, num_replicates=10, num_halves=2, k=3)
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
    given = {"arms": arms, "target": target or {"dark": 0.5, "bright": 0.5}, "judge": judge or Brightness()}
    given |= {"cohort": cohort, "encoder": build_encoder("embedded"), "image_size": SIZE, "settings": SETTINGS, **more}
    return evaluate_alignment_run(output_dir=tmp_path / "out", **given)


def test_the_run_finds_what_is_known(data, tmp_path, capsys):
    alignment = {
        "target": {"attributes": ["shade"], "target": {"dark": 0.5, "bright": 0.5}},
        "kept_step": 10,
        "curve": [{"step": s, **{name: {"distance": 0.3 - s / 50, "proportions": {}}
                                 for name in ("guide", "validation", "judge")}} for s in (0, 10)],
    }  # fmt: skip
    (tmp_path / "alignment.json").write_text(json.dumps(alignment))
    guide = Brightness(values=("bright", "dark"), threshold=0.02)
    content = run(data, tmp_path, guide=guide, alignment=tmp_path)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == json.loads(json.dumps(content, default=str))
    for arm, bright in (("before", 12), ("after", 30)):
        share = content["proportions"][arm]["shade"]["bright"]
        assert share["value"] == bright / 60 and share["n"] == 60
        assert share["ci95"] == pytest.approx(wilson_interval(bright, 60))
        distances = content["distance_to_target"][arm]["shade"]
        p = bright / 60
        assert distances["total_variation"]["value"] == pytest.approx(abs(p - 0.5))
        assert distances["kl"]["value"] == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
        # a guide with its values in another order says the same of images as far apart as these
        assert content["readers"]["guide"]["proportions"][arm]["shade"]["bright"]["value"] == share["value"]
    assert content["training"]["shade"]["bright"]["value"] == pytest.approx(0.2)
    assert content["change"]["after"]["shade"]["value"] == pytest.approx(-0.3)
    pairs = content["consistency"]["after"]
    assert (pairs["num_stayed"], pairs["num_changed"]) == (42, 18)
    assert pairs["stayed"] == {"value": None, "ci95": None, "n": 42} and content["clip_score"]["after"]["n"] == 0
    assert content["verdict"]["after"]["answer"] == "met"
    # the judge came without figures of its own, and was right of all real images
    assert content["judge"]["held_out"]["shade"]["accuracy"]["value"] == 1
    assert any("came without held-out accuracies" in one["text"] for one in content["warnings"])
    fidelity = content["fidelity"]["all"]
    # 18 real images are bright: the target takes as many dark ones
    assert fidelity["counts"] == {"before": 60, "after": 60, "reference": 36} and fidelity["matched"] == 18
    assert fidelity["arms"]["after"]["ratio"]["value"] < 1
    assert content["fidelity"]["bright"]["counts"] == {"before": 12, "after": 30, "reference": 18}
    table = pd.read_csv(tmp_path / "out" / "metrics.csv", keep_default_na=False)
    row = table.query("arm == 'after' and metric == 'proportion of shade' and group == 'bright' and reader == 'judge'")
    assert float(row["value"].item()) == 0.5
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["figures"]["answer"] == {"after": "met"}
    assert "evaluation: done" in capsys.readouterr().out.splitlines()[-1]


def test_prompts_and_named_prompts(data, tmp_path):
    asked = ("a dark picture", "a bright picture")
    shades = ["dark", "bright"] * 20
    named = {
        "before": sampled(tmp_path / "b", shades, 3, asked),
        "after": sampled(tmp_path / "a", ["bright"] * 4 + shades[4:], 3, asked),
    }
    content = run(data, tmp_path, named=named)
    made = content["named_prompts"]["shade"]
    assert made["before"]["share"] == {"value": 1.0, "ci95": wilson_interval(40, 40), "n": 40}
    assert made["after"]["by_value"]["dark"]["value"] == 18 / 20 and made["after"]["by_value"]["bright"]["value"] == 1
    assert made["after"]["ratio"]["value"] == pytest.approx(38 / 40) and made["after"]["ratio"]["n"] == 40
    rows = {row["prompt"]: row["arms"] for row in content["by_prompt"]["shade"]["prompts"]}
    assert set(rows) == set(PROMPTS)
    assert rows[PROMPTS[0]]["before"]["n"] == 30 and not rows[PROMPTS[0]]["before"]["few"]
    assert rows[PROMPTS[0]]["before"]["proportions"]["bright"]["value"] == 6 / 30
    with pytest.raises(InputError, match="no prompt of the named ones names a value"):
        run(data, tmp_path, named=data[1])


def test_input_errors(data, tmp_path):
    cohort, arms, root = data
    with pytest.raises(InputError, match="needs 'before' and 'after'"):
        run(data, tmp_path, arms={"before": arms["before"], "later": arms["after"]})
    with pytest.raises(InputError, match="there is no manifest.csv"):
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
        evaluate_alignment_run(arms, None, Brightness(), cohort, build_encoder("embedded"), SIZE, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_member_of_the_guides_ensemble_is_no_judge(data, tmp_path):
    torch.manual_seed(0)
    members = []
    for name in ("one", "two"):
        save_classifier(tmp_path / name, SubgroupClassifier({"shade": VALUES}, 16, 8))
        members.append(str(tmp_path / name))
    with pytest.raises(InputError, match="the judge and the guide classifier are the same"):
        run(data, tmp_path, judge=load_classifier(members[0]), guide=members)


def test_a_judge_at_chance_is_warned_of_with_its_accuracy(data, tmp_path):
    blind = Brightness(threshold=0.0)
    blind.held_out = {"shade": {
        "values": list(VALUES), "chance": 0.5, "n": 60, "num_patients": 60, "confusion": [[15, 15], [15, 15]],
        "balanced_accuracy": {"value": 0.5, "ci95": [0.4, 0.6], "n": 60},
        "recall": {value: {"value": 0.5, "ci95": None, "n": 30} for value in VALUES},
    }}  # fmt: skip
    content = run(data, tmp_path, judge=blind)
    (warning,) = [one for one in content["warnings"] if "chance level" in one["text"]]
    assert warning["level"] == "error" and "0.500 (0.400" in warning["text"]
    behind = content["distance_to_target"]["after"]["shade"]["corrected"]
    assert behind["total_variation"]["value"] is None and "no better than chance" in behind["undefined"]
    assert content["verdict"]["after"]["answer"] == "undecided"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("chance level") < page.index("Verdict: undecided")
    assert "chance level" in page and "not corrected" in page


def test_the_correction_undoes_known_mistakes():
    (part,) = parts_of(make_target({"dark": 0.5, "bright": 0.5}, {"shade": VALUES}))
    # of 600 images, 300 truly dark: 10 % of dark and 20 % of bright ones are misread
    held_out = {"shade": {"values": ["bright", "dark"], "confusion": [[80, 20], [10, 90]]}}
    made = part_figures(np.array([330, 270]), part, held_out)
    assert made["total_variation"]["value"] == pytest.approx(0.05)
    assert made["corrected"]["proportions"]["dark"]["value"] == pytest.approx(0.5)
    assert made["corrected"]["total_variation"]["value"] == pytest.approx(0, abs=1e-9)


def test_a_joint_target_has_marginals_and_joint_mistakes():
    shares = {"dark|small": 0.1, "dark|large": 0.2, "bright|small": 0.3, "bright|large": 0.4}
    parts = parts_of(make_target(shares, {"shade": VALUES, "size": ("small", "large")}))
    assert [part.name for part in parts] == ["shade", "size", "shade|size"]
    assert parts[0].target == pytest.approx([0.3, 0.7]) and parts[1].target == pytest.approx([0.4, 0.6])
    assert parts[2].values == tuple(shares) and parts[2].target == pytest.approx(list(shares.values()))
    codes = {"shade": np.array([0, 1, 1, -1]), "size": np.array([1, 0, 1, 1])}
    assert parts[2].join(codes).tolist() == [1, 2, 3, -1]
    held_out = {
        "shade": {"values": list(VALUES), "confusion": [[45, 5], [10, 40]]},
        "size": {"values": ["small", "large"], "confusion": [[70, 30], [20, 80]]},
    }
    truth = parts[2].target
    read = np.zeros(4)
    for i, j in np.ndindex(4, 4):
        first, second = (held_out[name]["confusion"] for name in ("shade", "size"))
        read[j] += truth[i] * first[i // 2][j // 2] / 50 * second[i % 2][j % 2] / 100
    made = part_figures(np.round(10_000 * read).astype(int), parts[2], held_out)
    found = [one["value"] for one in made["corrected"]["proportions"].values()]
    assert found == pytest.approx(truth, abs=2e-3) and made["corrected"]["confusion_n"] == [50] * 4


def test_the_change_of_distance_has_an_interval_of_the_right_width():
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    made = change_of_distance(np.array([400, 100]), np.array([300, 200]), part)
    error = math.sqrt(0.8 * 0.2 / 500 + 0.6 * 0.4 / 500)
    assert made["value"] == pytest.approx(-0.2)
    assert made["ci95"] == pytest.approx([-0.2 - 1.96 * error, -0.2 + 1.96 * error], abs=0.008)
    assert change_of_distance(np.array([0, 0]), np.array([1, 2]), part) == {"value": None, "ci95": None, "n": 0}


def test_prompts_with_few_images_are_named_and_left_out_of_the_mean():
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    table = pd.DataFrame({"caption": ["many"] * 40 + ["few"] * 3})
    codes = {"shade": np.array([0] * 30 + [1] * 10 + [0] * 3)}
    made = of_prompts({"before": table}, {"before": codes}, [part], "caption")["shade"]
    many, few = (row["arms"]["before"] for row in made["prompts"])
    assert (many["n"], many["few"], few["n"], few["few"]) == (40, False, 3, True)
    assert made["mean"]["before"]["value"] == pytest.approx(0.25) and made["mean"]["before"]["n"] == 1
    # E |X/40 - 1/2| of a fair coin
    expected = sum(math.comb(40, k) / 2**40 * abs(k / 40 - 0.5) for k in range(41))
    assert made["mean"]["before"]["by_chance"] == pytest.approx(expected, rel=0.1)


def test_the_same_noise_is_that_of_prompt_number_and_seed():
    before = pd.DataFrame({"caption": ["a", "a", "b"], "number": ["0", "1", "0"], "seed": ["0", "0", "0"]})
    after = pd.DataFrame({"caption": ["b", "a", "a"], "number": ["0", "1", "0"], "seed": ["0", "1", "0"]})
    first, second = same_noise(before, after, "caption")
    assert sorted(zip(first.tolist(), second.tolist())) == [(0, 2), (2, 0)]
    assert len(same_noise(before.drop(columns="number"), after, "caption")[0]) == 0


def test_consistency_by_hand():
    def arm(codes, features):
        return Looked({"judge": {"shade": np.array(codes)}}, np.array(features, np.float32))

    before = arm([0, 0, 1], [[1, 0], [0, 1], [1, 0]])
    after = arm([0, 1, 1], [[1, 0], [1, 0], [0.6, 0.8]])
    rows = np.arange(3), np.arange(3)
    made = consistency(before, after, rows, "judge", "shade")
    assert (made["num_stayed"], made["num_changed"]) == (2, 1)
    assert made["stayed"]["value"] == pytest.approx(0.8) and made["stayed"]["n"] == 2
    half = 1.959964 * np.std([1, 0.6], ddof=1) / math.sqrt(2)
    assert made["stayed"]["ci95"] == pytest.approx([0.8 - half, 0.8 + half])
    assert made["changed"]["value"] == pytest.approx(0) and made["changed"]["ci95"] is None
    others = [np.dot(before.features[i], after.features[j]) for i in range(3) for j in range(3) if i != j]
    assert made["unrelated"]["value"] == pytest.approx(np.mean(others))


def test_obedience_counts_pairs_and_leaves_out_prompts_that_name_none():
    (part,) = parts_of(make_target("uniform", {"sex": ("female", "male")}))
    captions = ["a woman", "a man", "a man", "somebody"]
    table = pd.DataFrame({"caption": captions, "number": ["0", "0", "1", "0"]})
    words = {"sex": {"female": "woman", "male": ["man", "gentleman"]}}
    read = {"before": {"sex": np.array([0, 1, 1, 1])}, "after": {"sex": np.array([1, 1, 1, 0])}}
    made = obedience({"before": table, "after": table}, read, [part], words, "caption")["sex"]
    assert made["before"]["share"]["value"] == 1 and made["before"]["left_out"] == 1
    assert made["after"]["share"]["value"] == pytest.approx(2 / 3) and made["after"]["by_value"]["female"]["value"] == 0
    assert made["after"]["ratio"]["value"] == pytest.approx(2 / 3) and made["after"]["ratio"]["n"] == 3


def test_real_rows_are_drawn_in_the_shares_of_the_target():
    codes = np.array([0] * 90 + [1] * 12 + [-1] * 5)
    rows = target_rows(codes, np.array([0.75, 0.25]), np.arange(len(codes)))
    assert np.bincount(codes[rows]).tolist() == [36, 12] and len(set(rows.tolist())) == 48
    assert (codes[target_rows(codes, np.array([1.0, 0.0]), np.arange(len(codes)))] == 0).sum() == 90
    assert len(target_rows(np.zeros(5, int), np.array([0.5, 0.5]), np.arange(5))) == 0


def test_the_spread_of_features_is_the_mean_over_pairs():
    features = np.random.default_rng(0).normal(size=(40, 5))
    made = feature_spread(features)
    assert made["value"] == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in combinations(features, 2)]))
    # by the jackknife
    left = [np.mean([np.linalg.norm(a - b) for a, b in combinations(np.delete(features, i, 0), 2)]) for i in range(40)]
    error = math.sqrt(39 / 40 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert made["ci95"][1] - made["value"] == pytest.approx(1.96 * error, rel=0.1)
    assert feature_spread(features[:1]) == {"value": None, "ci95": None, "n": 1}


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
    made = diversity(features, images, codes, part, SIZE)
    assert made["dark"]["after"]["ms_ssim"]["value"] == pytest.approx(0, abs=1e-6)
    assert made["dark"]["after"]["features"]["value"] == 0 and made["dark"]["before"]["features"]["value"] > 1
    assert made["bright"]["after"]["ms_ssim"] | {"ratio": None} == {"value": None, "ci95": None, "n": 0, "ratio": None}


def test_a_curve_that_rises_again_while_the_guide_falls():
    def curve(judge, guide, kept):
        rows = [{"step": 10 * n, "judge": {"distance": one}, "guide": {"distance": other}}
                for n, (one, other) in enumerate(zip(judge, guide))]  # fmt: skip
        return {"rows": rows, "kept_step": kept}

    falling = [0.4, 0.2, 0.1, 0.02]
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling, 30), 0.05)["least"] == 0.19
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling, 20), 0.05) is None
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.21], falling, 30), 0.05) is None
    assert curve_rises(curve([0.39, 0.25, 0.19, 0.34], falling[::-1], 30), 0.05) is None
    assert curve_rises(None, 0.05) is None


@pytest.mark.parametrize(
    ("after", "by_guide", "answer"),
    [
        ((300, 300), (300, 300), "met"),
        ((480, 120), (480, 120), "no effect"),
        ((400, 200), (400, 200), "missed"),
        ((540, 60), (320, 280), "fooled the guide"),
        ((540, 60), (540, 60), "missed"),
    ],
)
def test_the_answer(after, by_guide, answer):
    assert alignment_verdict(verdict_content(after, by_guide))["answer"] == answer


@pytest.mark.parametrize(
    ("ratio", "lost"), [((1.3, [1.1, 1.5]), True), ((1.3, [0.9, 1.5]), False), ((0.8, None), False)]
)
def test_quality_lost_takes_the_place_of_met(ratio, lost):
    content = verdict_content((300, 300), (300, 300))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": ratio[0], "ci95": ratio[1], "n": 99}
    verdict = alignment_verdict(content)
    assert verdict["answer"] == ("quality lost" if lost else "met") and verdict["quality_lost"] is lost
    content = verdict_content((400, 200), (400, 200))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": ratio[0], "ci95": ratio[1], "n": 99}
    assert alignment_verdict(content)["answer"] == "missed"


def verdict_content(after, by_guide):
    """600 images before of which 480 are dark; the target is even."""
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))

    def read(counts):
        counts = {"before": np.array([480, 120]), "after": np.array(counts)}
        figures = {arm: {"shade": part_figures(one, part)} for arm, one in counts.items()}
        return {
            "distance_to_target": figures,
            "change": {"after": {"shade": change_of_distance(counts["before"], counts["after"], part)}},
        }

    none = {"value": None, "ci95": None, "n": 0}
    ratio = {"before": {"ratio": none}, "after": {"ratio": {"value": 0.9, "ci95": [0.8, 0.99], "n": 99}}}
    measures = {arm: {"ms_ssim": one, "features": one} for arm, one in ratio.items()}
    content = {
        "part": "shade",
        "settings": {"tolerance": 0.05},
        "judge": {"at_chance": []},
        **read(after),
        "readers": {"guide": read(by_guide)},
        "fidelity": {group: {"arms": dict(ratio)} for group in ("all", *VALUES)},
        "diversity": dict.fromkeys(VALUES, measures),
        "consistency": {"after": {"stayed": none, "changed": none, "unrelated": none}},
    }
    return json.loads(json.dumps(content, default=float))


def test_the_order_of_rows_does_not_matter(data, tmp_path):
    cohort, arms, _ = data
    first = run(data, tmp_path)
    shuffled = Cohort(cohort.table.sample(frac=1, random_state=0).reset_index(drop=True), cohort.root)
    again = run((shuffled, arms, None), tmp_path)
    for name in ("proportions", "distance_to_target", "fidelity", "diversity"):
        one, two = (json.dumps(content[name], default=str) for content in (first, again))
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
    made = look(cohort, {"judge": Brightness()}, [part], SIZE, clip, "caption", batch_size=7)
    row = 17
    pixels = np.asarray(Image.open(cohort.root / cohort.table["image"][row]))
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert made.features[row] == pytest.approx(clip.image_features(image)[0].numpy(), abs=1e-5)
    assert made.scores[row] == pytest.approx(float(clip.score(image, [cohort.table["caption"][row]])), abs=1e-5)
    assert made.codes["judge"]["shade"].tolist() == [1] * 12 + [0] * 48


def test_a_small_further_arm_takes_no_images_from_the_answer(data, tmp_path):
    cohort, arms, root = data
    alone = run(data, tmp_path)["fidelity"]["all"]
    small = sampled(tmp_path / "small", ["bright"] * 10 + ["dark"] * 2, 7)
    tiny = sampled(tmp_path / "tiny", ["bright"] * 4, 8)
    beside = run(data, tmp_path, arms={**arms, "small": small, "tiny": tiny})["fidelity"]["all"]
    for arm in ("before", "after"):
        assert beside["arms"][arm]["frechet_distance"] == alone["arms"][arm]["frechet_distance"]
    assert beside["matched"] == alone["matched"] == 18
    assert beside["arms"]["small"]["frechet_distance"]["n"] == beside["arms"]["small"]["ratio"]["n"] == 12
    assert beside["arms"]["tiny"]["frechet_distance"] == {"value": None, "ci95": None, "n": 4}


def test_what_is_beyond_the_limit_but_uncertain_is_a_warning():
    content = verdict_content((300, 300), (300, 300))
    content["fidelity"]["bright"]["arms"]["after"]["ratio"] = {"value": 1.3, "ci95": [0.9, 1.5], "n": 20}
    content["diversity"]["dark"]["after"]["ms_ssim"]["ratio"] = {"value": 0.8, "ci95": [0.5, 1.1], "n": 20}
    levels = {one["text"].split(",")[0]: one["level"] for one in alignment_verdict(content)["findings"]}
    assert levels["Worse perhaps"] == levels["Less diverse perhaps"] == "warning"
    content["diversity"]["dark"]["after"]["ms_ssim"]["ratio"]["ci95"] = [0.7, 0.88]
    assert alignment_verdict(content)["answer"] == "quality lost"


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
    content = run((real, arms, None), tmp_path, TwoAttributes(), joint)
    assert content["part"] == "shade|side" and set(content["target"]["parts"]) == {"shade", "side", "shade|side"}
    assert content["proportions"]["before"]["shade"]["bright"]["value"] == 12 / 60
    codes = []
    for row in pd.read_csv(arms["before"] / "manifest.csv").itertuples():
        pixels = np.asarray(Image.open(arms["before"] / row.image), float)
        codes.append(2 * (pixels.mean() > 127.5) + (pixels[:, SIZE // 2 :].mean() > pixels[:, : SIZE // 2].mean()))
    read = content["proportions"]["before"]["shade|side"]
    assert [one["value"] * 60 for one in read.values()] == pytest.approx(np.bincount(codes, minlength=4))
    assert content["fidelity"]["all"]["counts"]["reference"] == 4 * int(
        content["fidelity"]["bright|left"]["counts"]["reference"]
    )
    assert content["training"]["side"]["left"]["n"] == 40
    assert set(content["by_prompt"]) == {"shade", "side", "shade|side"}


def test_pictures_are_dealt_evenly():
    assert _dealt(np.array([96, 1]), 12) == [11, 1] and _dealt(np.array([50, 50]), 12) == [6, 6]
    assert _dealt(np.array([2, 3]), 12) == [2, 3] and _dealt(np.array([9] * 12), 12) == [1] * 12
    assert _dealt(np.array([], int), 12) == []
