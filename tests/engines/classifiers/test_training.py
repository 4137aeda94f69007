import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from medi_monai.cohort import Cohort, PatchDataset
from medi_monai.engines.classifiers.accuracy import (
    accuracies,
    chance_warnings,
    deal_patients,
    evaluate_classifier,
    is_at_chance,
)
from medi_monai.engines.classifiers.augment import Hardening
from medi_monai.engines.classifiers.batches import (
    ClassifierBatches,
    ClassifierSettings,
    LabeledImages,
    MaskedCrossEntropy,
    label_codes,
)
from medi_monai.engines.classifiers.training import (
    classify_run,
    cross_validate_classifier,
    prompt_consistent_images,
    train_classifier,
)
from medi_monai.networks.classifier import SubgroupClassifier, images_at, load_classifier
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import read_json

QUICK = ClassifierSettings(image_size=16, width=8, max_steps=60, batch_size=32, learning_rate=0.01)


def bars(count, seed=0, size=16, first=0):
    """Sex is the direction of bars, age their number; gray level and phase say nothing."""
    rng = np.random.default_rng(seed)
    sex, age = rng.choice(["female", "male"], count, p=[0.2, 0.8]), rng.choice(["old", "young"], count)
    ticks = np.arange(size) / size
    images = np.empty((count, 3, size, size), np.uint8)
    for i in range(count):
        wave = np.sin(2 * np.pi * (ticks * (2 if age[i] == "old" else 4) + rng.random()))
        plane = np.broadcast_to(wave if sex[i] == "male" else wave[:, None], (size, size))
        level = rng.uniform(90, 160) + 50 * plane + rng.normal(0, 15, (size, size))
        images[i] = np.clip(level, 0, 255)
    table = pd.DataFrame({"sex": sex, "age": age, "patient": [f"P{first + i // 2:04d}" for i in range(count)]})
    return LabeledImages(torch.from_numpy(images), table)


@pytest.fixture(scope="module")
def trained():
    held_out = bars(200, 1, first=1000)
    return train_classifier(bars(300), ["sex", "age"], held_out, QUICK), held_out


class TestTraining:
    def test_reads_both_attributes_of_other_patients(self, trained):
        for result in trained[0].held_out.values():
            assert result["balanced_accuracy"]["value"] > 0.9 and not is_at_chance(result)

    def test_is_frozen_and_knows_its_values(self, trained):
        assert trained[0].attributes == {"sex": ("female", "male"), "age": ("old", "young")}
        assert not trained[0].training and not any(parameter.requires_grad for parameter in trained[0].parameters())

    def test_the_same_seed_gives_the_same_weights_and_another_others(self):
        settings = ClassifierSettings(image_size=16, width=8, max_steps=4, batch_size=8)
        torch.manual_seed(7)
        first = train_classifier(bars(40), ["sex"], None, settings).state_dict()
        state = torch.random.get_rng_state()
        torch.manual_seed(8)
        second = train_classifier(bars(40), ["sex"], None, settings).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        other = ClassifierSettings(image_size=16, width=8, max_steps=4, batch_size=8, seed=1)
        assert not torch.equal(
            train_classifier(bars(40), ["sex"], None, other).state_dict()["head.bias"], first["head.bias"]
        )
        torch.random.set_rng_state(state)

    def test_gaps_in_the_labels_are_left_out(self):
        labeled = bars(300)
        labeled.table.loc[::2, "sex"] = ""
        labeled.table.loc[1::2, "age"] = None
        classifier = train_classifier(labeled, ["sex", "age"], bars(200, 1, first=1000), QUICK)
        assert min(result["balanced_accuracy"]["value"] for result in classifier.held_out.values()) > 0.85

    def test_generated_images_join_at_another_size(self):
        generated = bars(60, 5, size=24)
        del generated.table["patient"]
        settings = ClassifierSettings(image_size=16, width=8, max_steps=2, batch_size=8)
        assert train_classifier(bars(40), ["sex"], None, settings, generated).image_size == 16

    def test_generated_images_of_one_value_would_give_it_away(self):
        generated = bars(60, 5)
        generated.table["sex"] = "male"
        with pytest.raises(InputError, match="all of the 60 generated images with a known 'sex' have the same value"):
            train_classifier(bars(40), ["sex"], None, QUICK, generated)

    def test_scalars_are_written(self, tmp_path):
        class Writer:
            scalars: list = []

            def add_scalar(self, name, value, step):
                self.scalars.append((name, step))

        settings = ClassifierSettings(image_size=16, width=8, max_steps=20, batch_size=8, val_interval=8)
        train_classifier(bars(40), ["sex"], bars(20, 1, first=900), settings, writer=Writer())
        assert [step for name, step in Writer.scalars if name == "held_out/balanced_accuracy_sex"] == [8, 16, 20]
        assert ("train/loss", 10) in Writer.scalars

    def test_a_lost_loss_is_said(self):
        settings = ClassifierSettings(image_size=16, width=8, max_steps=20, batch_size=8, learning_rate=1e30)
        with pytest.raises(RunStopped, match="lower learning_rate"):
            train_classifier(bars(40), ["sex"], None, settings)

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            (["sxe"], "attribute 'sxe': did you mean 'sex'"),
            ([], "give a list of columns"),
            ("sex", "give a list of columns"),
            (["site"], "'site' has the values \\['A'\\]"),
            (["years"], "'years' has 40 values, all of them numbers"),
            ({"sex": ["female", "diverse"]}, "value of 'sex' 'male'"),
        ],
    )
    def test_attributes_that_cannot_be_learned(self, attributes, message):
        labeled = bars(40)
        labeled.table = labeled.table.assign(site="A", years=[str(number) for number in range(40)])
        with pytest.raises(InputError, match=message):
            train_classifier(labeled, attributes, None, QUICK)

    def test_patients_in_both_parts(self):
        with pytest.raises(InputError, match="10 patients are both held out and in training, such as 'P0000'"):
            train_classifier(bars(40), ["sex"], bars(20), QUICK)

    @pytest.mark.parametrize(
        "wrong", [{"max_steps": 0}, {"learning_rate": 0}, {"label_smoothing": 1}, {"batch_size": -1}]
    )
    def test_settings_out_of_range(self, wrong):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ClassifierSettings(**wrong)


class TestBatches:
    def batches(self, sources, attributes, **settings):
        classifier = SubgroupClassifier(attributes, 16, 8)
        return ClassifierBatches(sources, classifier, ClassifierSettings(image_size=16, max_steps=400, **settings))

    def test_values_are_alike_in_a_skewed_set(self):
        batches = self.batches([bars(300)], {"sex": ["female", "male"]}, batch_size=16)
        codes = torch.cat([batch["targets"] for batch in batches])
        assert codes.shape == (6400, 1) and codes.float().mean().item() == pytest.approx(0.5, abs=0.02)
        assert batches.class_weights()[0].tolist() == pytest.approx([1, 1])

    def test_weights_even_out_what_another_attribute_brings(self):
        labeled = bars(400)
        batches = self.batches([labeled], {"sex": ["female", "male"], "age": ["old", "young"]}, batch_size=32)
        codes = torch.cat([batch["targets"] for batch in batches])
        for column, weights in enumerate(batches.class_weights()):
            shares = weights * torch.bincount(codes[:, column], minlength=2)
            assert (shares / shares.sum()).tolist() == pytest.approx([0.5, 0.5], abs=0.02)

    def test_generated_images_that_contradict_their_prompt_are_left_out(self, trained, capsys):
        generated = bars(80, 9)
        wrong = np.zeros(80, bool)
        wrong[::4] = True
        flipped = generated.table["sex"].map({"female": "male", "male": "female"})
        lied = LabeledImages(generated.images, generated.table.assign(sex=generated.table["sex"].mask(wrong, flipped)))
        kept = prompt_consistent_images(lied, trained[0])
        read = trained[0].probabilities(generated.images)
        right = {name: values.argmax(1).numpy() for name, values in read.items()}
        values = trained[0].attributes
        expected = [
            row
            for row in range(80)
            if all(values[name][right[name][row]] == lied.table[name][row] for name in ("sex", "age"))
        ]
        assert kept.table["patient"].tolist() == lied.table["patient"][expected].tolist()
        assert not set(np.flatnonzero(wrong)) & set(expected) and len(expected) > 50
        assert f"{len(expected)} of 80 generated images are predicted as requested" in capsys.readouterr().out

    def test_without_a_prompt_consistent_image_of_a_value_real_ones_are_used_alone(self, trained, capsys):
        generated = bars(40, 9)
        women = (generated.table["sex"] == "female").to_numpy()
        lied = LabeledImages(
            generated.images[~women], generated.table[~women].assign(sex="female").reset_index(drop=True)
        )
        assert prompt_consistent_images(lied, trained[0]) is None
        assert "only real images are used" in capsys.readouterr().out

    def test_generated_images_have_their_share(self):
        generated = bars(50, 3)
        generated.images[:] = 7
        batches = self.batches([bars(40), generated], {"sex": ["female", "male"]}, batch_size=20, generated_share=0.25)
        batch = next(iter(batches))
        assert len(batch["image"]) == 20 and int((batch["image"] == 7).all(1).all(1).all(1).sum()) == 5

    def test_a_batch_that_is_too_small(self):
        with pytest.raises(InputError, match="too small for 2 attributes"):
            self.batches([bars(40)], {"sex": ["female", "male"], "age": ["old", "young"]}, batch_size=1)

    def test_the_loss_leaves_gaps_out(self):
        logits = {"sex": torch.randn(5, 2), "age": torch.randn(5, 3)}
        codes = torch.tensor([[0, -1], [1, -1], [-1, 2], [1, 0], [-1, -1]])
        loss = MaskedCrossEntropy([torch.ones(2), torch.tensor([1.0, 2.0, 0.5])])(logits, codes)
        sex = -logits["sex"].log_softmax(1)[[0, 1, 3], [0, 1, 1]].mean()
        age = -logits["age"].log_softmax(1)[[2, 3], [2, 0]]
        assert loss.item() == pytest.approx(((sex + (0.5 * age[0] + age[1]) / 1.5) / 2).item(), rel=1e-5)

    def test_codes_follow_the_vocabulary_of_the_classifier(self):
        classifier = SubgroupClassifier({"sex": ["male", "female"]}, 16, 8)
        cells = pd.Series(["female", "male", "", None, " ", "male"], dtype="str")
        assert label_codes(classifier, pd.DataFrame({"sex": cells}))[:, 0].tolist() == [1, 0, -1, -1, -1, 0]

    def test_images_keep_their_mean_at_another_size(self):
        pixels = bars(4).images
        assert images_at(pixels, 16) is pixels
        small = images_at(pixels, 8)
        assert small.dtype == torch.uint8 and small.shape == (4, 3, 8, 8)
        assert small.float().mean().item() == pytest.approx(pixels.float().mean().item(), abs=1.5)

    def test_labeled_images_are_checked(self):
        with pytest.raises(InputError, match="uint8, not"):
            LabeledImages(torch.zeros(2, 3, 8, 8), pd.DataFrame({"sex": ["a", "b"]}))
        with pytest.raises(InputError, match="2 images do not match 1 rows"):
            LabeledImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), pd.DataFrame({"sex": ["a"]}))


class TestAccuracy:
    def results(self, num_patients=60, skill=0.4, seed=0):
        rng = np.random.default_rng(seed)
        patients = np.repeat([f"P{number}" for number in range(num_patients)], 3)
        codes = torch.from_numpy(np.repeat(rng.integers(0, 3, num_patients), 3))[:, None]
        codes[::7] = -1
        scores = torch.from_numpy(rng.dirichlet([1, 1, 1], len(patients))).float()
        scores = (1 - skill) * scores + skill * torch.eye(3)[codes[:, 0].clamp_min(0)]
        return scores, codes, patients

    def test_agrees_with_scikit_learn(self):
        scores, codes, patients = self.results()
        result = accuracies({"site": scores}, codes, {"site": "abc"}, patients)["site"]
        known = codes[:, 0] >= 0
        target, predicted = codes[known, 0], scores[known].argmax(1)
        assert result["confusion"] == confusion_matrix(target, predicted).tolist()
        assert result["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(target, predicted))
        assert result["accuracy"]["value"] == pytest.approx((target == predicted).float().mean().item())
        assert result["n"] == int(known.sum()) and result["recall"]["a"]["n"] == int((target == 0).sum())

    def test_the_interval_is_that_of_patients_and_not_of_images(self):
        scores, codes, _ = self.results(40, 0.25)
        # ten copies of every image are no more patients
        many = [scores.repeat_interleave(10, 0), codes.repeat_interleave(10, 0), np.repeat(np.arange(40), 30)]
        once = accuracies({"site": scores}, codes, {"site": "abc"}, np.repeat(np.arange(40), 3))["site"]
        copied = accuracies({"site": many[0]}, many[1], {"site": "abc"}, many[2])["site"]
        assert copied["balanced_accuracy"]["ci95"] == pytest.approx(once["balanced_accuracy"]["ci95"], abs=1e-9)

    def test_the_interval_does_not_depend_on_the_order_of_rows(self):
        scores, codes, patients = self.results()
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
        first = accuracies({"site": scores}, codes, {"site": "abc"}, patients)
        second = accuracies({"site": scores[order]}, codes[order], {"site": "abc"}, patients[order.numpy()])
        errors = [results["site"].pop("calibration_error")["value"] for results in (first, second)]
        assert first == second and errors[0] == pytest.approx(errors[1])

    def test_chance_is_found(self):
        guessed = accuracies({"site": (lot := self.results(skill=0.0))[0]}, lot[1], {"site": "abc"}, lot[2])
        assert is_at_chance(guessed["site"])
        (sentence,) = chance_warnings(guessed)
        assert "'site', where chance is 0.33" in sentence and "balanced accuracy of 0." in sentence
        read = accuracies({"site": (lot := self.results(skill=0.5))[0]}, lot[1], {"site": "abc"}, lot[2])
        assert not is_at_chance(read["site"]) and chance_warnings(read) == []

    def test_what_nobody_measured_has_no_figure(self):
        scores, codes, patients = self.results()
        result = accuracies({"site": scores}, torch.full_like(codes, -1), {"site": "abc"}, patients)["site"]
        assert result["balanced_accuracy"] == {"value": None, "ci95": None, "n": 0} and result["n"] == 0
        assert is_at_chance(result) and "has no held-out image" in chance_warnings({"site": result})[0]

    def test_probabilities_do_not_depend_on_the_batch_size(self, trained):
        classifier, held_out = trained
        by_7, at_once = (classifier.probabilities(held_out.images, size)["sex"] for size in (7, 200))
        assert by_7.shape == (200, 2) and torch.allclose(by_7, at_once, atol=1e-5)
        floats = classifier.probabilities(held_out.images.float() / 127.5 - 1)["sex"]
        assert torch.allclose(floats, at_once, atol=1e-5)
        assert evaluate_classifier(classifier, held_out) == classifier.held_out

    def test_some_of_the_attributes_are_enough(self, trained):
        classifier, held_out = trained
        only = LabeledImages(held_out.images, held_out.table[["age", "patient"]])
        assert evaluate_classifier(classifier, only, attributes=["age"]) == {"age": classifier.held_out["age"]}
        with pytest.raises(InputError, match="attribute of the classifier 'race'"):
            evaluate_classifier(classifier, only, attributes=["race"])


class TestFolds:
    def test_patients_are_whole_and_values_spread_evenly(self):
        table = bars(200).table.assign(sex=lambda t: t["patient"].map(lambda name: "ab"[int(name[1:]) % 5 == 0]))
        fold = deal_patients(table, ["sex"], 5)
        units = table.assign(fold=fold).drop_duplicates("patient")
        assert (table.assign(fold=fold).groupby("patient")["fold"].nunique() == 1).all()
        assert np.ptp(units.groupby(["sex", "fold"]).size().unstack().to_numpy(), axis=1).max() <= 1
        shuffled = table.sample(frac=1, random_state=0)
        assert (deal_patients(shuffled, ["sex"], 5) == fold[shuffled.index]).all()

    def test_numbers_of_folds_that_cannot_be(self):
        for count in (1, 21):
            with pytest.raises(InputError, match=f"{count} parts of 20 patients"):
                deal_patients(bars(40).table, ["sex"], count)

    def test_every_image_is_read_by_a_classifier_that_did_not_see_its_patient(self):
        # pure noise: whoever had seen a patient's image would know it by heart
        labeled = bars(60)
        labeled.images = torch.randint(0, 256, labeled.images.shape, generator=torch.Generator().manual_seed(0)).to(
            torch.uint8
        )
        settings = ClassifierSettings(
            image_size=16, width=8, max_steps=40, batch_size=16, hardening=Hardening.none(), label_smoothing=0
        )
        result = cross_validate_classifier(labeled, ["age"], 3, settings)["age"]
        assert is_at_chance(result) and sum(map(sum, result["confusion"])) == 60 and result["num_folds"] == 3

    def test_what_can_be_read_is_read_across_folds(self):
        result = cross_validate_classifier(bars(200), {"sex": ["male", "female"]}, 2, QUICK)["sex"]
        assert result["balanced_accuracy"]["value"] > 0.85 and result["values"] == ["male", "female"]


class TestRun:
    @pytest.fixture
    def cohort(self, tmp_path):
        labeled = bars(160)
        names = [f"{number}.png" for number in range(160)]
        for name, pixels in zip(names, labeled.images):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / name)
        split = np.where(np.arange(160) < 120, "train", "val")
        table = labeled.table.assign(image=names, slide=names, x="0", y="0", mpp="1.0", split=split, coin="")
        table["coin"] = np.random.default_rng(0).choice(["heads", "tails"], 160)
        return Cohort(table, tmp_path)

    def test_writes_what_the_classifier_is_and_does(self, cohort, tmp_path, capsys):
        output = tmp_path / "out"
        classifier = classify_run(cohort, ["sex", "coin"], output, 16, QUICK)
        loaded = load_classifier(output)
        assert loaded.held_out == classifier.held_out and loaded.held_out["sex"]["n"] == 40
        table = pd.read_csv(output / "confusion.csv")
        own = table[table["attribute"] == "sex"]
        assert own["count"].tolist() == np.ravel(loaded.held_out["sex"]["confusion"]).tolist()
        assert own.groupby("value")["share"].sum().tolist() == pytest.approx([1, 1])
        printed = capsys.readouterr().out.splitlines()
        assert any(line.startswith("warning: the classifier has a balanced accuracy of") for line in printed)
        assert "'coin'" in printed[-2] and printed[-1].startswith("classifying: done. Results: ")
        summary = read_json(output / "summary.json")
        assert summary["settings"]["hardening"]["gain"] == QUICK.hardening.gain
        assert set(summary["digests"]) == {"cohort", "classifier.pt"}

    def test_cross_validates_where_asked_and_sets_earlier_results_aside(self, cohort, tmp_path):
        settings = ClassifierSettings(image_size=16, width=8, max_steps=3, batch_size=8)
        classify_run(cohort, ["sex"], tmp_path / "out", 16, settings)
        result = classify_run(cohort, ["sex"], tmp_path / "out", 16, settings, num_folds=2).held_out["sex"]
        assert result["num_folds"] == 2 and result["n"] == 120
        assert (tmp_path / "out" / "earlier-1" / "classifier.pt").is_file()

    def test_a_cohort_without_held_out_images(self, cohort, tmp_path):
        cohort = Cohort(cohort.table.assign(split="train"), cohort.root)
        with pytest.raises(InputError, match="no image in \\['val', 'holdout'\\].*--classifier_folds 5"):
            classify_run(cohort, ["sex"], tmp_path / "out", 16, QUICK)
        with pytest.raises(InputError, match="attribute 'sexe': did you mean 'sex'"):
            classify_run(cohort, ["sexe"], tmp_path / "out", 16, QUICK, num_folds=2)

    def test_a_data_set_of_patches_is_taken_as_it_is(self, cohort):
        dataset = PatchDataset(cohort, MetadataSchema.from_table(cohort.table, "sex"), 16)
        settings = ClassifierSettings(image_size=16, width=8, max_steps=2, batch_size=8)
        assert train_classifier(dataset, ["age"], None, settings).attributes == {"age": ("old", "young")}
