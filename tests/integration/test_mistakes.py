"""What users write arrives, and their mistakes are one line: through the command line of the bundles."""

import subprocess
import sys
import textwrap
from pathlib import Path

import monai.bundle
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.utils.errors import InputError

ROOT = Path(__file__).parents[2]
PATHOLOGY, BRAIN = ROOT / "bundles" / "pathology_medi_diffusion", ROOT / "bundles" / "brain_mri_fair_text_diffusion"
TRAIN, PREPARE = PATHOLOGY / "configs" / "train.json", PATHOLOGY / "configs" / "prepare.json"


def run_all(forks, folder, cases, environment=None):
    """Exit status and output of each command line."""
    environment = {"MEDI_CACHE": str(folder / "cache"), **(environment or {})}
    results = []
    for number, case in enumerate(cases):
        log = folder / f"out{number}.txt"
        ended = forks.run([str(word) for word in case], folder, log, 120.0, environment=environment)
        results.append((ended["code"], ended["output"]))
    return results


def run(run_id, config, *more, bundle=PATHOLOGY):
    return ["run", run_id, "--bundle_root", bundle, "--config_file", config, *more]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Twelve tiles of tissue with a table whose columns and values have characters of MONAI's syntax in them."""
    root = tmp_path_factory.mktemp("tiles #1")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        pixels = np.clip(rng.normal((170, 90, 150), 25, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"t{number}.png")
        center = ["Aspen", "#N/A", "@site"][number % 3]
        rows.append((f"t{number}.png", f"s{number}", f"p{number}", 1.0, "AB"[number // 3 % 2], center))
    columns = ["image", "slide", "Case #", "mpp", "project_id", "center"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "tiles.csv", index=False)
    (root / "overlay.yaml").write_text(
        textwrap.dedent(
            """
            table: tiles.csv
            unit: tiles
            columns: {image: "{image}", slide: slide, patient: "Case #", mpp: mpp}
            metadata_columns: [center]
            missing: ["#N/A"]
            min_tissue: 0.3
            max_patches_per_slide: null
            holdout_fraction: 0.0
            split_scheme: patient_kfold
            num_folds: 2
            """
        )
    )
    return root


def test_text_arrives_as_it_was_written(forks, tiles, tmp_path):
    """``#N/A`` of an overlay, ``Case #``, ``run #2`` of the command line, and a variable at the start of a path."""
    command = run(
        "preparing", f"['{PREPARE}', '{tiles / 'overlay.yaml'}']",
        "--dataset_dir", "$SCRATCH", "--output_dir", "run #2", "--num_workers", "1",
    )  # fmt: skip
    [(code, output)] = run_all(forks, tmp_path, [command], {"SCRATCH": str(tiles)})
    assert code == 0, output
    table = pd.read_csv(tmp_path / "run #2" / "cohort.csv", keep_default_na=False)
    assert set(table["center"]) == {"Aspen", "@site", ""} or set(table["center"]) == {"Aspen", "@site", "unknown"}
    assert set(table["patient"]) == {f"p{number}" for number in range(12)}
    assert "::" not in output and not (tmp_path / "run ::2").exists()


def test_templates_of_captions_arrive_as_they_were_written(forks, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    rows = [(f"{n}.png", f"p{n}", ["female", "male"][n % 2], str(n)) for n in range(12)]
    pd.DataFrame(rows, columns=["image", "patient", "sex", "slice"]).to_csv(tmp_path / "slices.csv", index=False)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        'attributes: [sex]\ntemplates: {templates: [{text: "FLAIR slice #{slice} of a {sex} @ 3T", weight: 1.0}]}\n'
        "holdout_fraction: 0.0\nval_fraction: 0.2\n"
    )
    config = f"['{BRAIN / 'configs' / 'prepare.json'}', '{overlay}']"
    command = run("preparing", config, "--dataset_dir", tmp_path, "--output_dir", "cohort", bundle=BRAIN)
    [(code, output)] = run_all(forks, tmp_path, [command])
    assert code == 0, output
    captions = pd.read_csv(tmp_path / "cohort" / "cohort.csv")["caption"]
    assert "FLAIR slice #0 of a female @ 3T" in set(captions)


INFERENCE = PATHOLOGY / "configs" / "inference.json"
EXPORT = ["ckpt_export", "network_def", "--bundle_root", PATHOLOGY, "--filepath", "x.ts"]
#: this bundle comes without a model
EXPORT_BRAIN = ["ckpt_export", "network_def", "--bundle_root", BRAIN, "--filepath", "x.ts"]
#: a command line, and what its one line has to say
MISTAKES = [
    (run("training", "gone.json"), "there is no config file gone.json"),
    (run("training", f"['{TRAIN}', 'gone.yaml']"), "there is no config file gone.yaml"),
    (run("training", "[a.json, b.yaml]"), "there is no config file a.json"),
    (run("training", "a,b"), "there is no config file a ("),
    (["run", "training", "--bundle_root", PATHOLOGY], "add --config_file"),
    (run("trainig", TRAIN), "did you mean 'training'"),
    (run("train", TRAIN), "unknown run id 'train': did you mean 'training'"),
    (run("sample", INFERENCE), "unknown run id 'sample': did you mean 'sampling'"),
    (run("evaluate", PATHOLOGY / "configs" / "evaluate.json"), "did you mean 'evaluation'"),
    (run("probe", PATHOLOGY / "configs" / "probe.json"), "did you mean 'probing'"),
    (run("sampling", TRAIN), "inference.json"),
    (run("training", TRAIN, "--max_step", "3"), "did you mean '--max_steps'"),
    (run("training", TRAIN, "--max_steps", "few"), "max_steps = 'few': it has to be a whole number"),
    (run("training", TRAIN, "--tracking", "mlflow"), 'pip install "medi_monai[mlflow]"'),
    (run("training", TRAIN, "--dataset_dir", "$NO_SUCH_VARIABLE/data"), "$NO_SUCH_VARIABLE is not set"),
    ([*EXPORT_BRAIN, "--config_file", BRAIN / "configs" / "inference.json"], "there is no checkpoint"),
    ([*EXPORT, "--config_file", INFERENCE, "--ckpt_file", "gone.pt"], "there is no checkpoint gone.pt"),
    (EXPORT, "inference.json"),
    ([*EXPORT, "--config_file", INFERENCE, "--num_step", "3"], "did you mean '--num_steps'"),
    (run("training", TRAIN, "second.yaml"), "several config files as one list"),
    (run("training", TRAIN, "-max_step", "3"), "did you mean '--max_steps'"),
    (run("training", TRAIN, "--output_dir"), "output_dir = True: it has to be a path"),
    (run("training", TRAIN, "--patch_cache", "None"), "patch_cache = None: it has to be one of"),
    (run("training", TRAIN, "--train#trainer#max_epoch", "3"), "did you mean 'max_epochs'"),
    (run("training", TRAIN, "--settings#training#max_steps", "3"), "The setting is --max_steps"),
    (run("training", TRAIN, "--logging_file", "gone.conf"), "gone.conf"),
    (run("training", TRAIN, "--meta_file", "gone.json"), "gone.json"),
    (run("training", TRAIN, bundle=BRAIN), "is the bundle"),
    (["run", "--args_file", "gone.json", "--config_file", TRAIN], "there is no config file gone.json"),
]  # fmt: skip

OVERLAYS = {
    "tab.yaml": (b"max_steps:\n\t- 3", "indent with spaces"),
    "bad.yaml": (b"channels: [1, 2", "invalid YAML"),
    "bad.json": (b'{"max_steps": 3,}', "invalid JSON"),
    "empty.yaml": (b"", "is empty"),
    "list.yaml": (b"- max_steps", "is not a mapping"),
    "latin.yaml": ("label: Größe".encode("latin-1"), "is not UTF-8"),
    "overlay.txt": (b"max_steps: 3", "has to end with .json, .yaml, .yml"),
    "sheme.yaml": (b"split_sheme: site_holdout", "did you mean 'split_scheme'"),
    "step.yaml": (b"max_step: 3", "did you mean 'max_steps'"),
}


def test_mistakes_are_one_line(forks, tmp_path):
    cases, says = [command for command, _ in MISTAKES], [message for _, message in MISTAKES]
    for name, (content, message) in OVERLAYS.items():
        (tmp_path / name).write_bytes(content)
        cases.append(run("training", f"['{TRAIN}', '{tmp_path / name}']"))
        says.append(message)
    for command, message, (code, output) in zip(cases, says, run_all(forks, tmp_path, cases)):
        lines = [line for line in output.splitlines() if line.strip()]
        assert code == 1 and len(lines) == 1, (command, output)
        assert lines[0].startswith("medi_monai: error: ") and message in lines[0], (command, output)


def test_a_real_process_says_it_as_well(tmp_path):
    command = [sys.executable, "-m", "monai.bundle", *map(str, run("train", TRAIN))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("medi_monai: error: unknown run id 'train'") and done.stderr.count("\n") == 1


def test_from_python_the_reason_comes_first():
    with pytest.raises(InputError, match="did you mean '--max_steps'") as error:
        monai.bundle.run("training", config_file=str(TRAIN), bundle_root=str(PATHOLOGY), max_step=3)
    assert error.value.__cause__ is None


def test_a_note_arrives_on_a_terminal_of_ascii(forks, tiles, tmp_path):
    overlay = tmp_path / "rename.yaml"
    overlay.write_text('mapping: {center: {column: center, rename: {"Köln 患": Cologne}}}\n', encoding="utf-8")
    files = f"['{PREPARE}', '{tiles / 'overlay.yaml'}', '{overlay}']"
    command = run("preparing", files, "--dataset_dir", tiles, "--output_dir", "out", "--num_workers", "1")
    [(code, output)] = run_all(forks, tmp_path, [command], {"PYTHONIOENCODING": "ascii"})
    assert code == 0 and output.isascii(), output
    assert r"'center' has no value 'K\xf6ln \u60a3', named in `rename`" in output
    assert (tmp_path / "out" / "cohort.csv").is_file()
