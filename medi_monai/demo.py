"""The demo experiment, end to end with report: ``medi-monai-demo``, ``python -m medi_monai.demo``, or ``make demo``.

Runs the experiment of the bundle in its quick form: the cohort, MeDi and the class-only model CLS on one budget, their
images, fidelity, linear probes, and a report; then compares the stain of their images with real ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from medi_monai.utils.errors import InputError, report_user_errors

__all__ = ["main"]

COLUMNS = ("project_id", "center")
ARMS = ("cls", "medi")


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment, skipping stages that are done; additional options are passed to the experiment."""
    report_user_errors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle_root",
        help="folder of the bundle; by default bundles/pathology_medi_diffusion here, or else the one that comes with "
        "the package",
    )
    parser.add_argument("--output_dir", default="demo_output", help="folder for all results of the demo")
    options, others = parser.parse_known_args(arguments)
    # imported late, so that --help answers at once
    from medi_monai.runs.shipped import PATHOLOGY_BUNDLE, find_bundle

    bundle, output = Path(options.bundle_root or find_bundle(PATHOLOGY_BUNDLE)).resolve(), Path(options.output_dir)
    output = output.resolve()
    config = bundle / "configs" / "experiment.json"
    if not config.is_file():
        raise InputError(
            f"there is no bundle in {bundle}: --bundle_root is the folder that has configs/experiment.json"
        )
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "experiment", "--bundle_root", str(bundle)]
    command += ["--config_file", str(config), "--output_dir", str(output), *others]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)
    _compare_stain(output)
    print(f"demo: done, the report is {output / 'report.html'}")


def _compare_stain(output: Path) -> None:
    from medi_monai.evaluation.stain_agreement import compare_stain
    from medi_monai.report.words import arm_title

    # no picture of samples here, because the report has one
    figures = compare_stain(
        output / "cohort", {arm: output / arm / "sampling" for arm in ARMS}, output, COLUMNS, per_cell=0
    )
    for arm, values in figures.items():
        named = [(name, values[name]) for name in ("r", "slope")]
        shown = ", ".join(f"{name} = {'–' if value is None else round(value, 3)}" for name, value in named)
        print(f"{arm_title(arm)}: stain of held-out combinations, generated versus real: {shown}")


if __name__ == "__main__":
    main()
