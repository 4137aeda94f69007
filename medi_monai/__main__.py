"""The command ``medi-monai``, also ``python -m medi_monai``: ``init``, ``bundles``, ``pack``, ``workflow``, …

A command imports what it needs once it is given, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from medi_monai.utils.errors import InputError, report_user_errors

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name."""
    report_user_errors()
    parser = argparse.ArgumentParser(
        prog="medi-monai",
        description="Start a cohort, copy the bundles, or see what this machine can do. Runs are started with "
        " `python -m monai.bundle run`, the demo with `medi-monai-demo`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser(
        "init",
        help="propose an overlay for your images",
        description="Looks at a folder of patches, slides or volumes, or at a table, and proposes an overlay. Nothing "
        "in the folder is changed.",
    )
    init.add_argument("target", help="folder of the images, or a table in it", type=Path)
    init.add_argument("--output", help="the overlay to write; by default <name of the folder>.yaml, here", type=Path)
    bundles = commands.add_parser(
        "bundles",
        help="copy the bundles and overlays that come with the package",
        description="Copies the bundles, overlays and constraints that come with the package to a folder.",
    )
    bundles.add_argument(
        "folder", help="folder for the copies; by default, this one", type=Path, nargs="?", default="."
    )
    pack = commands.add_parser(
        "pack",
        help="pack a bundle with a trained model, for the Model Zoo or a hub",
        description="Writes an archive of a bundle and a trained model that holds no path of this machine.",
    )
    pack.add_argument("bundle", help="folder of the bundle", type=Path)
    pack.add_argument("--ckpt_dir", help="folder of the trained model; by default models in the bundle", type=Path)
    pack.add_argument("--output", help="the archive; by default <name>_v<version>.zip, here", type=Path)
    pack.add_argument("--weights_url", help="leave the weights out, and name their address in large_files.yml")
    pack.add_argument("--hub", help="also upload to this repository, owner/name, on the Hugging Face hub")
    commands.add_parser(
        "workflow",
        help="print the Snakefile of experiments, for Snakemake",
        description="Prints the path of the Snakefile that runs the stages of an experiment as jobs: "
        "snakemake --snakefile $(medi-monai workflow) --configfile my.yaml --cores 2",
    )
    stages = commands.add_parser(
        "stages",
        help="list the stages of an experiment for another scheduler of jobs",
        description="Writes stages/workflow.json in the folder of the experiment: each stage with what it needs, its "
        "command and its resources.",
    )
    stages.add_argument(
        "config", help="options of the experiment, as YAML or JSON; - reads JSON from standard input", nargs="+"
    )
    stage = commands.add_parser(
        "stage",
        help="run one stage that `stages` has listed",
        description="Runs one stage, unless it is done. The stage `experiment` writes the page; it runs all that is "
        "left before.",
    )
    stage.add_argument("folder", help="folder of the experiment", type=Path)
    stage.add_argument("name", help="name of the stage")
    commands.add_parser(
        "doctor",
        help="see what is installed and what is missing",
        description="Shows versions, devices, readers of slides, encoders, disk space, and what each missing extra "
        "would give. Exits with 1 if something necessary does not work.",
    )
    options = parser.parse_args(arguments)
    if options.command == "init":
        from medi_monai.runs.init import propose_overlay

        propose_overlay(options.target, options.output)
    elif options.command == "pack":
        from medi_monai.runs.packing import pack_bundle, push_bundle

        archive = pack_bundle(options.bundle, options.output, options.ckpt_dir, options.weights_url)
        print(f"Packed {archive}")
        if options.hub:
            print(f"Uploaded to {push_bundle(archive, options.hub)}")
    elif options.command == "workflow":
        from medi_monai.runs.shipped import shipped_dir
        from medi_monai.utils.optional import require

        require("snakemake", "to run experiments as jobs")
        print(shipped_dir() / "configs" / "workflow" / "Snakefile")
    elif options.command == "stages":
        from medi_monai.runs.configs.files import read_config_file
        from medi_monai.runs.experiment.listing import list_stages

        given = [_read_standard_input() if file == "-" else read_config_file(Path(file)) for file in options.config]
        print(list_stages({name: value for config in given for name, value in config.items()}))
    elif options.command == "stage":
        from medi_monai.runs.experiment.listing import run_stage

        run_stage(options.folder, options.name)
    elif options.command == "doctor":
        from medi_monai.runs.doctor import print_diagnosis

        raise SystemExit(0 if print_diagnosis() else 1)
    else:
        from medi_monai.runs.shipped import copy_shipped

        copies = copy_shipped(Path(options.folder))
        print(f"Copied {', '.join(str(copy) for copy in copies)}")


def _read_standard_input() -> dict:
    try:
        given = json.load(sys.stdin)
    except ValueError as error:
        raise InputError(f"standard input is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError("standard input has to be a mapping, from options to values")
    return given


if __name__ == "__main__":
    main()
