"""The section of the evaluation page on single combinations of label and attributes: dots, distribution, heat maps."""

from __future__ import annotations

import pandas as pd

from medi_monai.report.page import Page
from medi_monai.report.plots import combination_dots, distance_distribution, distance_heat_maps
from medi_monai.report.words import arm_title
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.utils.text import listed

__all__ = ["add_combinations", "combination_table"]

#: maximum number of combinations in the plot of dots (with more, the page shows their distribution), and number of the
#: worst combinations in the table
MOST_DOTS, MOST_WORST = 60, 30
#: maximum numbers of rows or columns, and of panels, of the heat maps
MOST_SIDE, MOST_PANELS = 40, 7
LABEL = "Fréchet distance"


def combination_table(metrics: ArmsMetrics) -> pd.DataFrame:
    """Return a table with one row per combination.

    Columns are ``value 0``, ``value 1`` … (one per column of the metrics), ``name``, ``seen`` (whether it was in
    training), ``n`` (matched images), ``one patient``, ``floor``, and the distance of each arm.
    """
    by_arm = {arm: figures.frechet_distance.by_combination for arm, figures in metrics.arms.items()}
    value_columns = [f"value {nth}" for nth in range(len(metrics.columns))]
    rows = []
    for nth, combination in enumerate(next(iter(by_arm.values()), ())):
        values = [combination.values[column] for column in metrics.columns]
        rows.append(
            {
                **dict(zip(value_columns, values)),
                "name": " · ".join(values),
                "seen": combination.seen,
                "n": combination.n or 0,
                "one patient": combination.one_patient,
                "floor": combination.floor,
                **{arm: combinations[nth].value for arm, combinations in by_arm.items()},
            }
        )
    frame = pd.DataFrame(rows, columns=[*value_columns, "name", "seen", "n", "one patient", "floor", *by_arm])
    return frame.astype(dict.fromkeys(("floor", *by_arm), float))


def add_combinations(page: Page, metrics: ArmsMetrics, combinations: pd.DataFrame) -> None:
    """Add the section to a page; ``combinations`` is the result of :func:`combination_table`."""
    arms = list(metrics.arms)
    usable = combinations[combinations["n"] > 0]
    page.section(f"Fidelity by combination of {' and '.join(metrics.columns)}")
    if usable.empty:
        page.text("Not reported: no combination has enough images.")
        return
    if len(usable) <= MOST_DOTS:
        page.figure(
            combination_dots(usable, arms, LABEL),
            "Each row is a combination and each marker an arm; smaller distances are better. The gray bar is the "
            "distance between real images of different patients. Combinations not in training are shaded red.",
        )
    else:
        page.figure(
            distance_distribution(usable, arms, LABEL),
            f"Share of the {len(usable):,} combinations with at most this distance; lines farther left are better. The "
            "gray line is the distance between real images of different patients.",
        )
    if not _add_heat_maps(page, metrics, combinations):
        worst = usable.assign(worst=usable[arms].max(axis=1)).nlargest(MOST_WORST, "worst", keep="first")
        table = worst.set_index("name")[["seen", "n", "floor", *arms]].rename_axis("combination")
        heads = {"seen": "in training", "n": "matched images", "floor": "real images"}
        page.table(
            table.rename(columns=heads | {arm: arm_title(arm) for arm in arms}),
            f"The {len(worst)} combinations with the largest distance in any arm; metrics.csv has all",
            MOST_WORST,
        )


def _add_heat_maps(page: Page, metrics: ArmsMetrics, combinations: pd.DataFrame) -> bool:
    arms = list(metrics.arms)
    if not metrics.attributes or len(arms) + 1 > MOST_PANELS:
        return False
    label, attribute = metrics.columns[:2]
    index, columns = (sorted(combinations[f"value {nth}"].unique()) for nth in (0, 1))
    if len(index) > MOST_SIDE or len(columns) > MOST_SIDE:
        return False
    tables = {
        title: combinations.pivot_table(index="value 0", columns="value 1", values=arm, aggfunc="mean")
        .reindex(index=index, columns=columns)
        .rename_axis(index=label, columns=attribute)
        for title, arm in (("Real images", "floor"), *((arm_title(arm), arm) for arm in arms))
    }
    seen = combinations.groupby(["value 0", "value 1"])["seen"].any()
    others = metrics.attributes[1:]
    page.text(
        f"Rows are {label}, columns are {attribute}; darker cells are farther from real images. Red frames mark "
        "combinations not in training. White cells have too few images."
        + (f" Each cell is the mean over {listed(others)}." if others else "")
    )
    for figure in distance_heat_maps(tables, set(seen[~seen].index), LABEL):
        page.figure(figure, f"Fréchet distance by {label} and {attribute}")
    return True
