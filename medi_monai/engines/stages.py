"""Stages of an experiment: each is a run of the bundle in a process of its own, and done once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medi_monai.cohort.source import DEMO_BALANCED
from medi_monai.engines.bundle_process import run_bundle
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_fingerprint, json_digest, read_json, write_json

__all__ = ["Stage", "run_stage", "seconds_of"]


@dataclass(frozen=True)
class Stage:
    """One run: its name, run id, config files, what it leaves, and the options that are its own."""

    name: str
    run_id: str
    configs: Sequence[str]
    result: Path
    options: Mapping[str, Any]


def run_stage(
    bundle: Path,
    output: Path,
    stage: Stage,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    before: str,
) -> str:
    """Run a stage unless it is done.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        stage: what to run.
        options: by the ids of the bundle's configs; the stage takes those that its config has.
        stage_options: options of one run id alone.
        before: the digest of the stages before it.

    Returns:
        The digest of all that it was run with.

    Raises:
        InputError: where the images behind it are others by now.
        RunStopped: where it failed.
    """
    files = [bundle / "configs" / name for name in stage.configs]
    known = ConfigParser.load_config_files([str(file) for file in files])
    # what the overlay of an arm says stays as it is
    fixed = ConfigParser.load_config_files([str(file) for file in files[1:]]) if files[1:] else {}
    given = {name: value for name, value in options.items() if name in known and name not in fixed}
    own = {name: str(value) if isinstance(value, Path) else value for name, value in stage.options.items()}
    settings = {**given, **stage_options.get(stage.run_id, {}), **own}
    digest = json_digest({"settings": settings, "before": before})
    record = _record(output, stage)
    known = read_json(record) if record.is_file() else {}
    done = stage.result.is_file() and known.get("digest") == digest
    source = _source(files, settings, known) if stage.run_id == "preparing" else None
    if done and known.get("source") not in (None, source):
        raise InputError(
            f"the table or the images in {settings['dataset_dir']} are others than those that {output} was made from; "
            "choose another --output_dir"
        )
    if done:
        print(f"{stage.name}: done already, {stage.result}", flush=True)
        return digest
    overlay = record.with_suffix(".options.json")
    resumed = {"resume": True} if stage.run_id in ("training", "aligning") and _goes_on(stage, record, digest) else {}
    write_json(overlay, {**settings, **resumed})
    configs = [str(file) for file in (*files, overlay)]
    arguments = ["run", stage.run_id, "--bundle_root", str(bundle), "--config_file", str(configs)]
    print(f"\n{stage.name}\n$ python -W ignore -m monai.bundle {_shown(arguments)}", flush=True)
    spent = _spent(known, digest)
    content = {"digest": "", "begun": digest, "source": source, "seconds": spent}
    write_json(record, content)
    began = time.perf_counter()
    try:
        code = run_bundle(arguments)
        if code or not stage.result.is_file():
            raise RunStopped(f"the stage {stage.name!r} ended with {code}; the same command goes on from there")
        content["digest"] = digest
    finally:
        content["seconds"] = round(spent + time.perf_counter() - began, 1)
        write_json(record, content)
    return digest


def seconds_of(output: Path, stage: Stage) -> float | None:
    """How long the run took that made a stage's result; it may have been an earlier one."""
    seconds: float | None = read_json(_record(output, stage)).get("seconds")
    return seconds


def _record(output: Path, stage: Stage) -> Path:
    return output / "stages" / f"{stage.name.replace(' ', '_')}.json"


def _spent(known: Mapping[str, Any], digest: str) -> float:
    # an interrupted run with these very options counts as a part of this one
    interrupted = known.get("begun") == digest and not known.get("digest")
    return known.get("seconds") or 0.0 if interrupted else 0.0


def _source(files: Sequence[Path], settings: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """A digest of the table and of all images that it names; ``None`` for the demo cohorts, which are made by us.

    Slides and tiles count by their fingerprints, patches, of which there may be a million, by their sizes.
    """
    root = settings["dataset_dir"]
    if root in (None, DEMO_BALANCED):
        return None
    if known.get("digest") and not Path(root).is_dir():
        print(f"preparing: {root} is not here, and is taken to be as it was", flush=True)
        return known.get("source")
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser.update(dict(settings))
    preparation: Any = parser.get_parsed_content("preparation")
    with redirect_stdout(StringIO()):
        rows = preparation.source.rows()
    images = rows.loc[rows["problem"] == "", "image"]
    print(f"preparing: looking at {len(images):,} files in {root}", flush=True)
    look = _size if getattr(preparation.source, "unit", "patches") == "patches" else _fingerprint
    found = [look(Path(root) / image) for image in images]
    return json_digest({"source": preparation.source.settings(), "images": images.tolist(), "files": found})


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _fingerprint(path: Path) -> str:
    try:
        return file_fingerprint(path)
    except OSError:
        # `preparing` says what is wrong with it
        return ""


def _goes_on(stage: Stage, record: Path, digest: str) -> bool:
    # of a training that was begun with these very options
    begun = record.is_file() and read_json(record).get("begun") == digest
    return begun and any(stage.result.parent.glob("checkpoint_*.pt"))


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(f'"{part}"' if " " in part else part for part in arguments)
