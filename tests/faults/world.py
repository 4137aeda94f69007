"""Inputs of all runs of both bundles, made once by the runs themselves, and what undisturbed runs make of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medi_monai.networks.classifier import load_classifier, save_classifier
from medi_monai.utils.files import json_digest
from tests.faults.cases import WITHOUT, Case, Change, spelled
from tests.faults.judge import digests_of, everything
from tests.faults.recipes import RECIPES, Recipe

ROOT = Path(__file__).parents[2]
BUNDLES = {"pathology": "pathology_medi_diffusion", "brain": "brain_mri_fair_text_diffusion"}
OVERLAY = """
    table: tiles.csv
    unit: tiles
    columns: {image: "{image}", slide: slide, patient: patient, mpp: mpp}
    label: project_id
    attributes: [center]
    subpopulation_columns: [project_id, center]
    metadata_columns: [center, sex]
    image_size: 16
    mpp: 1.0
    min_tissue: 0.1
    max_patches_per_slide: null
    val_fraction: 0.2
"""
NEUTRAL = {"plan": "aligning/plan.csv", "plan_columns": ["project_id"]}
LOCK = threading.Lock()
#: a recipe and options of its own, what it makes, and the folder that this becomes
STEPS: list[tuple[str, dict[str, Any], dict[str, str | None]]] = [
    ("pathology/preparing", {}, {"out": "cohort"}),
    ("pathology/training", {}, {"new": "models", "out": None}),
    ("pathology/training", {"config": "class_only.json"}, {"new": "models_cls", "out": None}),
    ("pathology/sampling", {}, {"out": "medi"}),
    ("pathology/sampling", {"ckpt_dir": "models_cls"}, {"out": "cls"}),
    *(("pathology/classifying", {"role": role}, {"out": f"classifiers/{role}"}) for role in ("guide", "validation")),
    ("pathology/classifying", {"role": "judge"}, {"out": "classifiers/judge"}),
    ("pathology/aligning", {}, {"out": "aligning", "new": "aligned"}),
    ("pathology/sampling", NEUTRAL, {"out": "before"}),
    ("pathology/sampling", {**NEUTRAL, "ckpt_dir": "aligned"}, {"out": "after"}),
    ("brain/preparing", {}, {"out": "cohort"}),
    ("brain/training", {}, {"new": "models", "out": None}),
    ("brain/sampling", {}, {"out": "neutral"}),
    *(("brain/classifying", {"role": role}, {"out": f"classifiers/{role}"}) for role in ("guide", "validation")),
    ("brain/classifying", {"role": "judge"}, {"out": "classifiers/judge"}),
    ("brain/aligning", {}, {"out": "aligning", "new": "aligned"}),
    ("brain/sampling", {"ckpt_dir": "aligned"}, {"out": "after"}),
]


class Runner:
    """A process that has imported MONAI and runs command lines in forks of itself."""

    def __init__(self, cache: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDI_CACHE": str(cache), "MPLBACKEND": "agg"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faults.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip

    def run(self, arguments: list[str], folder: Path, log: Path, limit: float, **more: Any) -> dict[str, Any]:
        """Run a command line in ``folder``: ``code`` (None: it hung), ``seconds``, and ``output``."""
        job = {"arguments": arguments, "folder": str(folder), "log": str(log), "limit": limit, "environment": {}}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job | more) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the process that runs the cases has ended; its reason is above")
        output = log.read_text(errors="backslashreplace") if log.exists() else ""
        return {**json.loads(answer), "output": output}

    def close(self) -> None:
        self._server.communicate()


def spawns(change: Change) -> bool:
    """Whether workers begin as in a run of a user, which takes them seconds: not where their writes are watched."""
    return change.kill is not None and change.kill[0].startswith("SIG")


def command_of(
    recipe: Recipe, case: Case | None = None, again: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> list[str]:
    """The arguments of ``python -m monai.bundle``, in the folder of a case."""
    change = case.change if case else None
    given = {**recipe.options, **options, **(change.options if change else {}), **again}
    config = given.pop("config", None) or (change and change.config)
    files = [f"bundle/configs/{recipe.config}"] + ([recipe.overlay] if recipe.overlay else [])
    files += [f"bundle/configs/{config}"] if config else []
    files += [change.overlay[0]] if change and change.overlay else []
    listed = str(files) if len(files) > 1 else files[0]
    arguments = ["run", (change and change.run_id) or recipe.run, "--bundle_root", "bundle", "--config_file", listed]
    for name, value in given.items():
        if value is not WITHOUT:
            arguments += [f"--{name}", spelled(value)]
    return arguments


def make_data(folder: Path) -> None:
    """Tiles of two classes and three centers with features, and slices of a brain, with their tables."""
    rng, tiles = np.random.default_rng(0), folder / "pathology" / "data"
    tiles.mkdir(parents=True)
    rows = []
    (tiles / "features").mkdir()
    for number in range(36):
        label, center = number % 2, number // 2 % 3
        color = np.array([(180, 90, 150), (120, 60, 160)][label]) + 20 * center
        pixels = np.clip(rng.normal(color, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tiles / f"t{number}.png")
        np.savez(tiles / "features" / f"s{number}.npz", features=rng.normal([label, center, 0, 0], 1, (3, 4)))
        names = (["LUAD", "LUSC"][label], ["North", "South", "West"][center], ["male", "female"][number % 5 % 2])
        rows.append((f"t{number}.png", f"s{number}", f"p{number}", 1.0, *names))
    columns = ["image", "slide", "patient", "mpp", "project_id", "center", "sex"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(tiles / "tiles.csv", index=False)
    table.head(12)[["image", "mpp", "project_id"]].to_csv(tiles / "new_center.csv", index=False)
    (tiles / "tiles.yaml").write_text(textwrap.dedent(OVERLAY))
    slices = folder / "brain" / "data"
    slices.mkdir(parents=True)
    rows = []
    for number in range(48):
        pixels = np.clip(rng.normal(60 + 60 * (number % 2), 25, (16, 16)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(slices / f"b{number}.png")
        values = (["female", "male"][number % 2], 30 + number, ["absent", "left", "right"][number % 3])
        rows.append((f"b{number}.png", f"p{number}", *values))
    pd.DataFrame(rows, columns=["image", "patient", "sex", "age", "lesion"]).to_csv(slices / "slices.csv", index=False)


def tell_apart(guide: Path, images: Path) -> None:
    """Move the threshold of a classifier of few steps to where it reads half of these images as each sex."""
    classifier = load_classifier(guide)
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(images.rglob("*.png"))]
    with torch.no_grad():
        logits = classifier(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1)["sex"]
        classifier.head.bias[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.5)
    save_classifier(guide, classifier)


@dataclass(frozen=True)
class Undisturbed:
    """What an undisturbed run gives: digests of its results, its seconds, and how many files it wrote."""

    results: dict[str, str]
    seconds: float
    writes: int = 0


class World:
    """A folder with the inputs of all runs; :meth:`folder_of` copies what a case needs."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.runner = root, runner

    def make(self, recipe: Recipe) -> None:
        """Make what a run reads, and what this is made of, unless it is there already."""
        folder = self.root / recipe.bundle
        with LOCK:
            if not (self.root / "pathology" / "data").exists():
                make_data(self.root)
            if not (folder / "bundle").exists():
                source = ROOT / "bundles" / BUNDLES[recipe.bundle]
                shutil.copytree(source, folder / "bundle", ignore=shutil.ignore_patterns("models", "output"))
            self._make(recipe.bundle, set(recipe.reads))

    def _make(self, bundle: str, names: set[str]) -> None:
        folder = self.root / bundle
        for number, (name, options, becomes) in enumerate(STEPS):
            targets = {target.split("/")[0] for target in becomes.values() if target}
            if not name.startswith(bundle) or not targets & names or (folder / f"made{number}").exists():
                continue
            recipe = RECIPES[name]
            read = {str(value).split("/")[0] for value in {**recipe.options, **options}.values()}
            self._make(bundle, {*recipe.reads, *read} - targets)
            self._must_run(recipe, folder, folder / f"log{number}.txt", {}, **options)
            for output, target in becomes.items():
                if target is None:
                    shutil.rmtree(folder / output)
                else:
                    (folder / target).parent.mkdir(exist_ok=True)
                    (folder / output).rename(folder / target)
            if name == "brain/classifying" and options["role"] == "guide":
                self._make(bundle, {"neutral"})
                tell_apart(folder / "classifiers" / "guide", folder / "neutral" / "images")
            (folder / f"made{number}").touch()

    def _must_run(self, recipe: Recipe, folder: Path, log: Path, more: dict[str, Any], **options: Any) -> float:
        ended = self.runner.run(command_of(recipe, **options), folder, log, recipe.seconds, **more)
        if ended["code"] != 0:
            raise RuntimeError(f"{recipe.name} does not run: {ended['output'][-3000:]}")
        return float(ended["seconds"])

    def undisturbed(self, recipe: Recipe, change: Change | None = None) -> Undisturbed:
        """The result of the run without a fault; computed once.

        Args:
            recipe: of the run.
            change: of a run that is killed, whose options it then has: all that it leaves counts, not only its results.
        """
        self.make(recipe)
        with LOCK:
            return self._undisturbed(recipe, change if change and change.kill else None)

    def _undisturbed(self, recipe: Recipe, change: Change | None) -> Undisturbed:
        name = recipe.name.replace("/", "_")
        if change:
            name += f"_{json_digest(change.options)[:8]}_{'spawn' if spawns(change) else 'fork'}"
        path = self.root / "undisturbed" / f"{name}.json"
        if not path.exists():
            # as deep as the folders of cases: models name their cohort from where they are
            folder, log = self.root / "undisturbed" / name / "case", path.with_suffix(".txt")
            shutil.rmtree(folder.parent, ignore_errors=True)
            self._copy(recipe, folder)
            more = {"spawn": spawns(change), "at_write": None, "alone_after": 60} if change else {}
            seconds = self._must_run(recipe, folder, log, more, **(change.options if change else {}))
            results = everything(folder, recipe.outputs) if change else digests_of(folder, recipe.results)
            assert results, f"{recipe.name} made none of {recipe.results}"
            content: dict[str, Any] = {"results": results, "seconds": seconds}
            if change:
                content["writes"] = int(Path(f"{log}.writes").read_text())
            path.write_text(json.dumps(content))
            shutil.rmtree(folder.parent)
        return Undisturbed(**json.loads(path.read_text()))

    def folder_of(self, recipe: Recipe, folder: Path) -> Path:
        """A folder with copies of what a run reads."""
        self.make(recipe)
        return self._copy(recipe, folder)

    def _copy(self, recipe: Recipe, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in ("bundle", *recipe.reads):
            shutil.copytree(self.root / recipe.bundle / name, folder / name)
        return folder
