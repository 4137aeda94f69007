"""The run ``experiment``: from a cohort to a verdict; each stage is a run of the bundle, and done once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import PatchReader
from medi_monai.cohort.samples import read_arms
from medi_monai.cohort.table import SPLITS
from medi_monai.diffusion import SOLVERS
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.probing import BASELINES
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.evaluation.verdicts.metadata import verdict
from medi_monai.networks import build_encoder
from medi_monai.report import labeled_grid, write_experiment_page
from medi_monai.runs.experiment.schedule import Schedule
from medi_monai.runs.experiment.stages import Stage
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, read_json, write_json
from medi_monai.utils.run_dir import finish_run
from medi_monai.utils.seeding import seed_from
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["ARMS", "experiment_run"]

#: of an experiment, by name to the overlay behind their configs
ARMS: dict[str, list[str]] = {"cls": ["class_only.json"], "medi": []}
#: combinations of the picture of samples, and images of each
MAX_ROWS, PER_CELL = 12, 8


def experiment_run(
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    max_parallel_stages: int | None = None,
) -> dict[str, Any]:
    """Prepare, train and sample both arms on one budget, evaluate, probe, and write ``report.html``.

    Each stage is a run of the bundle in a process of its own; its command is printed, and can be given by hand. A stage
    is skipped where its result is there and was made with the same options and by the same stages before it.

    Args:
        bundle_root: the bundle.
        output_dir: folder of everything.
        options: by the ids of the bundle's configs; each stage takes those that its config has.
        stage_options: options of one stage alone, by run id: what bears one name in several of them.
        max_parallel_stages: beside each other, where they do not need each other; None takes two on a CPU.

    Returns:
        The content of ``experiment.json``.

    Raises:
        InputError: for an option that a late stage would refuse, before the first one; also where the images of
            ``dataset_dir`` are no longer those that the stages before were made from.
        RunStopped: where a stage failed; its own message says why, and the same command goes on.
    """
    bundle, output = Path(bundle_root).resolve(), Path(output_dir).resolve()
    if not (bundle / "configs" / "train.json").is_file():
        raise InputError(f"there is no bundle in {bundle}; start in the repository, or give --bundle_root")
    _check_late_options(options, stage_options)
    start = time.perf_counter()
    schedule = Schedule(bundle, output, options, stage_options, max_parallel_stages)
    schedule.run(_stages(output))
    seconds = schedule.seconds
    cohort = Cohort.read(output / "cohort")
    fidelity, probe = read_json(output / "evaluation" / "metrics.json"), read_json(output / "probing" / "probe.json")
    columns = [fidelity["label"], *fidelity["attributes"]]
    picture = _samples(cohort, {arm: output / arm / "sampling" for arm in ARMS}, columns, options["image_size"])
    with atomic_path(output / "samples.png") as path:
        Image.fromarray(picture).save(path, format="png")
    content: dict[str, Any] = {
        "question": (
            "Does a classifier that is trained on real and generated images hold up on "
            f"{probe['test']['what']}, and does it help that the generator knows {' and '.join(columns[1:])}?"
        ),
        "cohort": _described(cohort, columns),
        "verdict": verdict(fidelity, probe),
        "fidelity": fidelity,
        "probe": probe,
        "links": {
            "audit": "cohort/audit.html",
            "evaluation": "evaluation/report.html",
            "probing": "probing/report.html",
        },
        "settings": {**options, **{f"{run}: {k}": v for run, own in stage_options.items() for k, v in own.items()}},
        "seconds": seconds,
    }
    write_json(output / "experiment.json", content)
    shown = {"audit": read_json(output / "cohort" / "audit.json"), "samples": picture, "closest": _closest(output)}
    write_experiment_page({**content, **shown}, output / "report.html")
    for finding in content["verdict"]:
        print(f"{finding['level'].upper()}: {finding['text']}", flush=True)
    finish_run(
        "experiment",
        output,
        made={"stages": seconds},
        figures={
            "frechet_distance": {arm: one["frechet_distance"]["mean"] for arm, one in fidelity["arms"].items()},
            "balanced_accuracy": {arm: one["balanced_accuracy"] for arm, one in probe["arms"].items()},
            "seconds": round(time.perf_counter() - start, 1),
        },
        settings=content["settings"],
        digests={"cohort": cohort.digest},
        where=output / "report.html",
    )
    return content


def _stages(output: Path) -> list[Stage]:
    cohort = output / "cohort"
    # its last file: the table itself is CSV or, of a large cohort, Parquet
    prepared = cohort / "summary.json"
    stages = [Stage("preparing", "preparing", ["prepare.json"], prepared, {"output_dir": cohort})]
    for arm, overlay in ARMS.items():
        models = {"cohort_dir": cohort, "ckpt_dir": output / "models" / arm}
        own = {**models, "output_dir": output / arm / "training"}
        model = output / "models" / arm / "model.pt"
        stages.append(Stage(f"training {arm}", "training", ["train.json", *overlay], model, own, ["preparing"]))
    for arm, overlay in ARMS.items():
        models = {"cohort_dir": cohort, "ckpt_dir": output / "models" / arm}
        own = {**models, "output_dir": output / arm / "sampling"}
        done = output / arm / "sampling" / "summary.json"
        needs = ["preparing", f"training {arm}"]
        stages.append(Stage(f"sampling {arm}", "sampling", ["inference.json", *overlay], done, own, needs))
    arms = {arm: str(output / arm / "sampling") for arm in ARMS}
    for run_id, config, result in (
        ("evaluation", "evaluate.json", "metrics.json"),
        ("probing", "probe.json", "probe.json"),
    ):
        measured: dict[str, Any] = {"cohort_dir": cohort, "arms": arms, "output_dir": output / run_id}
        needs = ["preparing", *(f"sampling {arm}" for arm in ARMS)]
        stages.append(Stage(run_id, run_id, [config], output / run_id / result, measured, needs))
    return stages


def _check_late_options(options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> None:
    # what the last stages would refuse is said before hours of training
    for name in options["baselines"]:
        if name not in BASELINES:
            raise unknown_value("baseline", name, BASELINES)
    solver = stage_options["sampling"]["solver"]
    if solver not in SOLVERS:
        raise unknown_value("solver", solver, SOLVERS)
    FidelitySettings(max_images=options["max_images"], min_images=options["min_images"], k=options["neighbors"])
    patch_transforms(geometry=False, normalize=options["normalization"])
    build_encoder(options["encoder"])


def _described(cohort: Cohort, columns: Sequence[str]) -> dict[str, Any]:
    table = cohort.table[cohort.table["split"] != "excluded"]
    keys = table[list(columns)].astype(str).agg(" · ".join, axis=1)
    seen = set(keys[table["split"] == "train"])
    return {
        "label": columns[0],
        "attributes": list(columns[1:]),
        "dir": "cohort",
        "counts": {
            str(split): {
                "patches": len(rows),
                "slides": int(rows["slide"].nunique()),
                "patients": int(rows["patient"].nunique()),
            }
            for split in SPLITS
            if len(rows := table[table["split"] == split])
        },
        "combinations": {"seen": len(seen), "unseen": len(set(keys) - seen)},
    }


def _samples(cohort: Cohort, sampling_dirs: Mapping[str, Path], columns: Sequence[str], image_size: int) -> np.ndarray:
    """Real images and those of each arm side by side, combinations never seen first."""
    table = cohort.table[cohort.table["split"].isin(["train", "val", "holdout"])].reset_index(drop=True)
    arms = read_arms(sampling_dirs, columns, RESERVED_NAMES)
    sources = {"real": Cohort(table, cohort.root), **arms}
    in_training = set(map(tuple, table.loc[table["split"] == "train", list(columns)].to_numpy()))
    everywhere = set.intersection(*(set(map(tuple, one.table[list(columns)].to_numpy())) for one in sources.values()))
    shown = sorted(everywhere, key=lambda key: (key in in_training, seed_from("samples", list(key))))[:MAX_ROWS]
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    names = {key: " · ".join(key) + ("" if key in in_training else " (never seen)") for key in shown}
    for arm, images in sources.items():
        reader = PatchReader(images, image_size)
        keys = pd.Series(list(map(tuple, images.table[list(columns)].to_numpy())))
        for key in shown:
            rows = np.flatnonzero(keys == key)
            chosen = np.random.default_rng(seed_from("shown", arm, list(key))).permutation(rows)[:PER_CELL]
            cells[names[key], arm] = reader.read(np.sort(chosen).tolist())
        reader.close()
    title = "Real images, and generated ones of the same combinations"
    return labeled_grid(cells, sorted(names.values()), list(sources), title, (1, PER_CELL), 64)


def _closest(output: Path) -> dict[str, list[tuple[np.ndarray, np.ndarray, float]]]:
    with np.load(output / "evaluation" / "closest.npz") as stored:
        names = sorted({name.rpartition(" ")[0] for name in stored.files})
        return {
            name: list(
                zip(stored[f"{name} images"], stored[f"{name} training"], stored[f"{name} correlation"].tolist())
            )
            for name in names
        }
