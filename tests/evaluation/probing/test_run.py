import json
import shutil
from functools import partial

import jsonschema
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medi_monai.evaluation.probing.jobs as jobs
import medi_monai.evaluation.probing.run as module
import medi_monai.evaluation.shortcuts.figures as figures
from medi_monai.cohort import Cohort
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.probing.run import probe_run
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.shortcuts.pairs import balanced_clustering
from medi_monai.networks.encoders import build_encoder
from medi_monai.results import plain, read_results, read_schema
from medi_monai.results.probing import ProbeResults
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json

LABELS, CENTERS, SIZE = ("A", "B", "C"), ("n", "s", "w"), 16
SETTINGS = ProbeSettings(
    num_repeats=3,
    probe_replicates=10,
    sweep_repeats=1,
    sweep_ratios=(0.5,),
    sweep_real_per_class=(8,),
    sweep_num_centers=(2,),
    sweep_correlations=(0.0, 1.0),
    c_values=(0.01, 1.0),
    min_count=4,
)


def picture(rng, label, center):
    pixels = rng.integers(0, 90, (SIZE, SIZE, 3)) + 40 * CENTERS.index(center)
    pixels[::2] += 25 * LABELS.index(label)
    return pixels.astype(np.uint8)


def write(root, table, rng):
    root.mkdir()
    for row in table.itertuples():
        Image.fromarray(picture(rng, row.project_id, row.center)).save(root / row.image)
    return table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("probing"), np.random.default_rng(0)
    rows = []
    for label in LABELS:
        for center in CENTERS:
            held_out = (label, center) in {("A", "n"), ("B", "s")}
            for patient in range(6):
                name = f"{label}{center}{patient}"
                split = "holdout" if held_out else "val" if patient == 5 else "train"
                sex = (None, "f", "m")[patient % 3]
                rows += [(f"{name}_{n}.png", name, "0", "0", "1.0", label, center, split, sex) for n in range(10)]
    columns = ["image", "patient", "x", "y", "mpp", "project_id", "center", "split", "sex"]
    cohort = Cohort(write(root / "cohort", pd.DataFrame(rows, columns=columns), rng), root / "cohort")
    arms = {}
    for arm in ("cls", "medi"):
        names = [(f"{x}{y}{n}.png", x, y) for x in LABELS for y in CENTERS for n in range(6)]
        table = write(root / arm, pd.DataFrame(names, columns=["image", "project_id", "center"]), rng)
        table.to_csv(root / arm / "manifest.csv", index=False)
        arms[arm] = root / arm
    return cohort, arms


@pytest.fixture(scope="module")
def run_in(data):
    encoder = build_encoder("embedded")

    def go(root, folder="out", cohort=data[0], arms=data[1], baselines=("reweighted", "oversampled"), **kwargs):
        options = {"demographics": ["sex"], "settings": SETTINGS, "num_workers": 1, **kwargs}
        attributes = options.pop("attributes", ["center"])
        return probe_run(
            cohort,
            arms,
            "project_id",
            attributes,
            options.pop("demographics"),
            baselines,
            Embedder(encoder, SIZE),
            root / folder,
            **options,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_probe_page", lambda results, path: path.write_text("page"))
        # fewer clusterings, for speed
        patch.setattr(figures, "balanced_clustering", partial(balanced_clustering, max_pairs=2, num_repeats=2))
        yield go


@pytest.fixture
def run(run_in, tmp_path):
    return partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def whole(run_in, tmp_path_factory):
    """The results of a run with nothing but the defaults, and its folder."""
    root = tmp_path_factory.mktemp("whole")
    return run_in(root), root / "out"


def test_the_results_are_written_and_hold_what_they_should(whole):
    results, out = whole
    assert read_results(out / "probe.json", ProbeResults) == results
    jsonschema.validate(read_json(out / "probe.json"), read_schema("probe"))
    assert list(results.arms) == ["real", "reweighted", "oversampled", "cls", "medi"]
    assert results.focus == "medi" and results.test.n == 120 and results.test.patients == 12
    assert results.test.left_out == 0 and results.training.n == 350
    assert {point.point for point in results.sweeps["num_centers"]} == {2, 3} or results.sweeps["num_centers"]
    assert results.shortcut.correlation.levels == (0.0, 1.0) and results.shortcut.correlation.num_squares > 0
    assert results.shortcut.center_probe_accuracy.chance == 1 / 3
    # what the models of the arms were trained on is not recorded
    assert list(results.shortcut.correlation.arms) == ["real", "reweighted"]
    assert results.shortcut.correlation.left_out == ("cls", "medi") and results.shortcut.correlation.num_outside > 0
    assert results.shortcut.robustness_index.num_pairs == 9 and results.shortcut.clustering_score.num_repeats == 2
    added = {arm: of_arm.training.num_added for arm, of_arm in results.arms.items()}
    assert added["cls"] == added["medi"] == 54 and added["real"] == added["oversampled"] == 0
    assert results.arms["real"].demographics["sex"].groups == {"f": 40, "m": 40}
    table = pd.read_csv(out / "probe.csv")
    real = table.query("arm == 'real' and figure == 'balanced_accuracy' and part == 'all'")
    assert real["value"].item() == pytest.approx(results.arms["real"].balanced_accuracy.value)


def test_recolored_patches_are_added_to_the_combinations_of_the_generated_arms(run, data, tmp_path, capsys):
    # gray images do not show two stains, so there is no arm of these
    gray = Cohort(data[0].table, tmp_path / "gray")
    gray.root.mkdir()
    for name in gray.table["image"]:
        Image.open(data[0].root / name).convert("L").convert("RGB").save(gray.root / name)
    settings = ProbeSettings(**{**vars(SETTINGS), "sweep_repeats": 0, "num_repeats": 1})
    results = run(cohort=gray, baselines=("stain_transfer", "stain_transfer_macenko"), settings=settings)
    assert list(results.arms) == ["real", "stain_transfer", "cls", "medi"]
    assert "no stain of n, s, w can be estimated" in capsys.readouterr().out
    assert results.arms["stain_transfer"].training.num_added == results.arms["medi"].training.num_added == 54
    stores = [read_json(path / "store.json") for path in (gray.root / "features").iterdir()]
    (stored,) = (store for store in stores if store["fingerprint"]["recipe"])
    # half as many again as a draw adds, for each of three classes
    assert stored["count"] == 81 and stored["fingerprint"]["recipe"]["stain_transfer"] == "moments"
    run("again", cohort=gray, baselines=("stain_transfer",), settings=settings)
    assert len(list((gray.root / "features").iterdir())) == 2


def test_variants_have_the_generated_images_of_the_main_arm(run, data, capsys):
    few = {**vars(SETTINGS), "sweep_repeats": 0, "num_repeats": 1, "variants": ["normalized", "filtered"]}
    results = run(baselines=(), settings=ProbeSettings(**few))
    assert list(results.arms) == ["real", "cls", "medi", "medi_normalized", "medi_filtered"]
    added = {arm: of_arm.training.num_added for arm, of_arm in results.arms.items()}
    assert added["medi_normalized"] == added["medi"] == 54 >= added["medi_filtered"]
    stores = [read_json(path / "store.json") for path in (data[1]["medi"] / "features").iterdir()]
    assert {"normalized": "macenko"} in [store["fingerprint"]["recipe"] for store in stores]
    assert {row.arms[1] for row in results.comparisons} == set(results.arms) - {"medi"}
    run("of_real", baselines=("reweighted",), settings=ProbeSettings(**few), focus="real")
    assert "no variants of 'real', which has no generated images" in capsys.readouterr().out
    with pytest.raises(InputError, match="'medi_filtered' is both an arm and a variant of the arm 'medi'"):
        run(arms={**data[1], "medi_filtered": data[1]["cls"]}, settings=ProbeSettings(**few))


def test_an_interrupted_run_goes_on_to_the_same_and_processes_change_nothing(run, whole, tmp_path, monkeypatch):
    done, original = [], jobs._run_job

    def interrupted(job, context):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(job.key)
        return original(job, context)

    monkeypatch.setattr(jobs, "_run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    (draws,) = (tmp_path / "parts" / "repeats").iterdir()
    assert len(list(draws.iterdir())) == 4 and not (tmp_path / "parts" / "probe.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in draws.iterdir()}
    monkeypatch.setattr(jobs, "_run_job", original)
    again = run("parts", num_workers=2)
    assert {name: (draws / name).stat().st_mtime_ns for name in before} == before
    assert json.dumps(plain(again)) == json.dumps(plain(whole[0]))


def test_a_generator_that_saw_nothing_of_what_the_sweep_withholds_stays_in_it(run, data, tmp_path):
    arms = {name: shutil.copytree(folder, tmp_path / name) for name, folder in data[1].items()}
    few = ProbeSettings(**{**vars(SETTINGS), "num_repeats": 1})
    seen = {"cls": [(label, center) for label in LABELS for center in CENTERS], "medi": [("C", "elsewhere")]}
    seen["cls"] = [cell for cell in seen["cls"] if cell not in {("A", "n"), ("B", "s")}]
    for name, cells in seen.items():
        record = {"cohort": "", "columns": ["project_id", "center"], "combinations": [(cell, 9) for cell in cells]}
        (arms[name] / "sampling.json").write_text(json.dumps({"trained_on": record}))
    correlation = run(arms=arms, baselines=(), settings=few).shortcut.correlation
    assert list(correlation.arms) == ["real", "medi"] and correlation.left_out == ("cls",)
    # an arm is in the sweep with all of its trainings, or not at all
    third = shutil.copytree(arms["medi"], tmp_path / "third")
    both = run("both", arms={"medi": [arms["medi"], third]}, baselines=(), settings=few).shortcut.correlation
    assert both.arms["medi"].num_trainings == 2 and both.arms["real"] == correlation.arms["real"]
    (third / "sampling.json").unlink()
    neither = run("neither", arms={"medi": [arms["medi"], third]}, baselines=(), settings=few).shortcut.correlation
    assert list(neither.arms) == ["real"] and neither.left_out == ("medi",)


def test_sweeps_can_be_chosen_and_the_draws_are_the_same(run, whole):
    whole, some = whole[0], run("some", sweeps=["correlation"])
    assert some.arms == whole.arms and some.shortcut == whole.shortcut and some.digests == whole.digests
    assert whole.sweeps["ratio"] and some.sweeps == {"ratio": (), "real_per_class": (), "num_centers": ()}
    assert not run("none", sweeps=[]).shortcut.correlation.arms


def test_one_arm_and_no_validation_will_do(run, data, tmp_path):
    cohort = Cohort(data[0].table.assign(split=data[0].table["split"].replace("val", "train")), data[0].root)
    few = ProbeSettings(**{**vars(SETTINGS), "sweep_repeats": 0, "num_repeats": 1})
    results = run(cohort=cohort, arms={"only": data[1]["cls"]}, baselines=(), settings=few, demographics=["absent"])
    assert list(results.arms) == ["real", "only"] and results.focus == "only"
    assert results.demographics == () and results.sweeps["ratio"] == ()
    jsonschema.validate(read_json(tmp_path / "out" / "probe.json"), read_schema("probe"))
    assert all(row.p_value is None and row.p_holm is None for row in results.comparisons)
    assert results.training.validation == 0


def test_several_trainings_of_an_arm_are_one_arm(run, data, tmp_path):
    arms = data[1]
    results = run(arms={"cls": arms["cls"], "medi": [arms["medi"], arms["cls"]]})
    assert list(results.arms) == ["real", "reweighted", "oversampled", "cls", "medi"] and results.num_trainings == 2
    alone = run("alone", arms={"cls": arms["cls"], "medi": arms["medi"]})
    trainings = results.arms["medi"].balanced_accuracy.trainings
    # a training is drawn as if it were alone, and another one does not change it
    assert trainings[0] == pytest.approx(alone.arms["medi"].balanced_accuracy.value) and len(trainings) == 2
    assert results.arms["medi"].balanced_accuracy.value == pytest.approx(np.mean(trainings))
    assert results.arms["real"] == alone.arms["real"]
    # sweeps have both trainings, too, and other arms are as they were
    for sweep, points in results.sweeps.items():
        for row, single in zip(points, alone.sweeps[sweep], strict=True):
            assert (row.point, row.arm, row.n, single.num_trainings) == (single.point, single.arm, single.n, 1)
            assert row == single if row.arm != "medi" else row.num_trainings == 2
    pairs = zip(results.sweeps["ratio"], alone.sweeps["ratio"])
    assert any(row.balanced_accuracy != single.balanced_accuracy for row, single in pairs if row.arm == "medi")
    variances = {row.arms[1]: set(row.variance) for row in results.comparisons if row.figure == "balanced_accuracy"}
    assert variances["real"] == {"trainings", "images", "draws", "test"}
    jsonschema.validate(read_json(tmp_path / "out" / "probe.json"), read_schema("probe"))


@pytest.mark.parametrize("folders", [[], 3, [["nested"]]])
def test_folders_of_trainings_that_are_none_are_refused(run, folders):
    with pytest.raises(InputError, match="for 'medi': a folder, or a list of folders, one for each training"):
        run(arms={"medi": folders})


def test_trainings_that_are_listed_twice_or_unequal_in_number_are_refused(run, data):
    cls, medi = (data[1][name] for name in ("cls", "medi"))
    with pytest.raises(InputError, match="for 'medi': a folder is listed twice"):
        run(arms={"medi": [medi, medi]})
    folders = {"cls": [cls, medi], "medi": [medi, cls, medi / "third"]}
    with pytest.raises(InputError, match="unequal numbers of trainings: 2 for 'cls', 3 for 'medi'"):
        run(arms=folders)


def test_what_cannot_be_is_refused(run):
    with pytest.raises(InputError, match="baseline"):
        run(baselines=("reweigthed",))
    with pytest.raises(InputError, match="no attribute"):
        run(attributes=[])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_repeats": 0}, "num_repeats = 0"),
        ({"min_count": 0}, "min_count = 0"),
        ({"real_per_class": 0}, "real_per_class = 0"),
        ({"c_values": ()}, "c_values = .*it has to be"),
        ({"c_values": (0.0, 1.0)}, r"c_values = \(0.0, 1.0\)"),
        ({"ratio": -1.0}, "ratio = -1.0"),
        ({"sweep_real_per_class": (10, 0)}, r"sweep_real_per_class = \(10, 0\)"),
        ({"variants": ["filterd"]}, "unknown variant 'filterd'"),
        ({"sweep_correlations": (0.0, 1.5)}, r"sweep_correlations = \(0.0, 1.5\)"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_embedded(change, named):
    with pytest.raises(InputError, match=named):
        ProbeSettings(**change)
