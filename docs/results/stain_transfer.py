"""Does a model give each center its stain? Regress the optical densities of sampled patches on those of real ones.

    python docs/results/stain_transfer.py --cohort_dir COHORT --output_dir OUT cls=SAMPLING medi=SAMPLING

COHORT is the folder of a cohort.csv, SAMPLING the output_dir of a `sampling` run. Writes OUT/stain.json and
OUT/comparison.png, and prints the figures. `make demo` does the same for the combinations held out of the demo cohort.
"""

import argparse
from pathlib import Path

from medi_monai.demo import COLUMNS
from medi_monai.evaluation.stain_agreement import compare_stain
from medi_monai.utils.errors import report_user_errors


def main() -> None:
    report_user_errors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort_dir", type=Path, required=True)
    parser.add_argument("--split", default="holdout", choices=("holdout", "train"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("arms", nargs="+", metavar="ARM=SAMPLING")
    options = parser.parse_args()
    arms = {name: Path(folder) for name, folder in (arm.split("=", 1) for arm in options.arms)}
    figures = compare_stain(options.cohort_dir, arms, options.output_dir, COLUMNS, options.split)
    for arm, values in figures.items():
        print(arm, {name: value if value is None else round(value, 3) for name, value in values.items()})


if __name__ == "__main__":
    main()
