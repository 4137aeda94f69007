import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.label_fidelity import label_fidelity

LABELS, CENTERS, CS = ("A", "B"), ("n", "s", "w"), (0.1, 1.0)


def table_of(patients=6, images=8):
    rows = [
        (f"{label}{center}{patient}_{n}.png", f"{label}{center}{patient}", label, center)
        for label in LABELS
        for center in CENTERS
        for patient in range(patients)
        for n in range(images)
    ]
    return pd.DataFrame(rows, columns=["image", "patient", "label", "center"])


def features_of(table, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    base = {key: np.eye(5)[axis] * 3 for axis, key in enumerate((*LABELS, *CENTERS))}
    mean = np.array(
        [
            base.get(label, np.zeros(5)) + base.get(center, np.zeros(5))
            for label, center in zip(table["label"], table["center"])
        ]
    )
    return (mean + noise * rng.standard_normal(mean.shape)).astype(np.float32)


def test_what_was_asked_for_is_read_and_what_was_not_is_told():
    real = table_of()
    manifest = table_of(1, 10)[["image", "label", "center"]]
    right = features_of(manifest, seed=1)
    # images of center n are those of center s
    wrong = features_of(manifest.assign(center=manifest["center"].replace("n", "s")), seed=2)
    fidelity = label_fidelity(
        features_of(real), real, {"right": (right, manifest), "wrong": (wrong, manifest)}, ["label", "center"], CS
    )
    assert (
        fidelity["real"]["label"]["value"] == fidelity["real"]["center"]["value"] == 1
        and fidelity["real"]["center"]["chance"] == 1 / 3
    )
    assert fidelity["right"]["center"]["value"] == fidelity["right"]["label"]["value"] == 1
    assert fidelity["right"]["center"]["ci95"][0] < 1 and fidelity["right"]["center"]["n"] == 60
    assert fidelity["wrong"]["center"]["by_value"] == {"n": 0.0, "s": 1.0, "w": 1.0}
    assert fidelity["wrong"]["center"]["value"] == pytest.approx(2 / 3) and fidelity["wrong"]["label"]["value"] == 1


def proportion_interval(share, n, z=1.959963984540054):
    # the roots of (share - p)^2 = z^2 p (1 - p) / n
    return sorted(np.roots([1 + z * z / n, -2 * share - z * z / n, share * share]).real)


def test_combinations_weigh_alike_and_rows_and_arms_come_in_any_order():
    real = table_of()
    manifest = pd.concat(
        [table_of(1, 10), table_of(1, 50).query("center == 'n'").assign(image=lambda t: "x" + t["image"])]
    )
    manifest = manifest.reset_index(drop=True)
    features = features_of(manifest.assign(center=manifest["center"].replace("n", "s")), 1.0)
    features_real = features_of(real, 1.0)
    fidelity = label_fidelity(features_real, real, {"a": (features, manifest)}, ["label", "center"], CS)["a"]["center"]
    assert (
        fidelity["value"] == pytest.approx(np.mean(list(fidelity["by_value"].values())), abs=0.02)
        and fidelity["n"] == 160
    )
    # 40 images of "n" weigh a sixth of 10 each: 1 / sum of the squared weights is the number that the share rests on
    sizes = manifest.groupby(["label", "center"]).size()
    effective = 36 / (1 / sizes).sum()
    low, high = proportion_interval(fidelity["value"], effective)
    assert fidelity["ci95"] == pytest.approx([low, high]) and effective < 160 * 0.6
    order, turned = (np.random.default_rng(n).permutation(n) for n in (len(real), len(manifest)))
    arms = {"z": (features[:9], manifest.head(9)), "a": (features[turned], manifest.iloc[turned])}
    again = label_fidelity(features_real[order], real.iloc[order], arms, ["label", "center"], CS)["a"]["center"]
    assert again == fidelity


def test_shares_are_told_apart_by_what_the_models_were_trained_on():
    real, manifest = table_of(), table_of(1, 10)
    # images of center n are those of center s, and those of (B, w) are those of (A, w)
    drawn = manifest.assign(center=manifest["center"].replace("n", "s"))
    drawn.loc[(drawn["label"] == "B") & (drawn["center"] == "w"), "label"] = "A"
    arms = {"a": (features_of(drawn), manifest)}
    seen = {("A", "n"), ("A", "s"), ("B", "s"), ("B", "w")}
    fidelity = label_fidelity(features_of(real), real, arms, ["label", "center"], CS, seen=seen)["a"]
    assert fidelity["center"]["seen"] == pytest.approx(3 / 4) and fidelity["center"]["unseen"] == pytest.approx(1 / 2)
    assert fidelity["label"]["seen"] == pytest.approx(3 / 4) and fidelity["label"]["unseen"] == 1
    none = label_fidelity(features_of(real), real, arms, ["label", "center"], CS)["a"]["label"]
    assert none["seen"] is None and none["unseen"] == none["value"]


def test_values_that_no_real_image_has_are_left_out_with_their_count():
    real = table_of()
    manifest = table_of(1, 4)
    manifest["center"] = manifest["center"].replace("w", "elsewhere")
    fidelity = label_fidelity(
        features_of(real), real, {"a": (features_of(manifest), manifest)}, ["label", "center"], CS
    )
    assert fidelity["a"]["center"]["left_out"] == 8 and fidelity["a"]["center"]["n"] == 16
    assert fidelity["a"]["center"]["value"] == 1 and set(fidelity["a"]["center"]["by_value"]) == {"n", "s"}
    alone = manifest[manifest["center"] == "elsewhere"]
    none = label_fidelity(features_of(real), real, {"a": (features_of(alone), alone)}, ["label", "center"], CS)["a"][
        "center"
    ]
    assert none == {"value": None, "ci95": None, "n": 0, "left_out": 8, "by_value": {}, "seen": None, "unseen": None}


def test_a_column_of_one_value_and_a_single_patient_cannot_be_read():
    real = table_of().assign(center="n")
    arms = {"a": (features_of(real), real)}
    assert "center" not in label_fidelity(features_of(real), real, arms, ["label", "center"], CS)["a"]
    single = table_of().assign(patient="p")
    fidelity = label_fidelity(features_of(single), single, {"a": (features_of(single), single)}, ["label"], CS)
    assert fidelity["a"] == {} and fidelity["real"]["label"]["value"] is None
