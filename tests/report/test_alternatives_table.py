"""The section of alternatives: what stands in its cells, and what is left out without a word of it."""

import pytest

from medi_monai.report.alternatives_table import add_alternatives, stages_of
from medi_monai.report.page import Page

NONE = {"value": None, "ci95": None, "n": 0}


def fig(value, n=600):
    return {"value": value, "ci95": None, "n": n}


def distance(value):
    behind = {"total_variation": fig(value / 2), "undefined": None}
    return {"sex": {"total_variation": fig(value), "corrected": behind}}


def content(arms=("before", "after", "retrained", "resampled")):
    ratios = {"before": 1.0, "after": 0.8, "retrained": 0.9, "resampled": 1.3}
    spread = {"before": (1.0, 1.0), "after": (0.97, 0.93), "retrained": (0.91, 0.99), "resampled": (1.01, 1.02)}
    pairs = {"stayed": fig(0.97), "changed": fig(0.9)}
    stages = {"aligning": 200.0, "classifying guide": 40.0}
    return {
        "part": "sex",
        "proportions": dict.fromkeys(arms),
        "distance_to_target": {arm: distance(0.4 - place / 10) for place, arm in enumerate(arms)},
        "consistency": {"after": pairs, "retrained": pairs, "resampled": {"stayed": NONE, "changed": NONE}},
        "fidelity": {
            "all": {"arms": {arm: {"frechet_distance": fig(3.0), "ratio": fig(ratios[arm])} for arm in arms}},
            "female": {"arms": {arm: {"ratio": NONE} for arm in arms}},
            "male": {"arms": {arm: {"ratio": fig(ratios[arm] + 0.05)} for arm in arms}},
        },
        "diversity": {
            "male": {
                arm: {
                    "ms_ssim": {**fig(0.5), "ratio": fig(spread[arm][0])},
                    "features": {**fig(9.0), "ratio": fig(spread[arm][1])},
                }
                for arm in arms
            }
        },
        "verdict": {
            arm: {"answer": "met", "findings": [{"level": "ok", "text": "Near."}]} for arm in arms if arm != "before"
        },
        "chosen": {"resampled": {"images": 612, "of": 1800}} if "resampled" in arms else {},
        "costs": {
            "before": {"stages": {"sampling neutral before": 20.0}},
            "after": {"stages": stages, "gradient_images": 28800, "gradient_images_allowed": 43200},
            "retrained": {
                "stages": {"retraining": 180.0, "sampling neutral retrained": 21.0},
                "gradient_images": 43200,
            },
            "resampled": {"stages": {"classifying guide": 40.0, "resampling": None}},
        },
    }


def blocks(given):
    page = Page("x")
    add_alternatives(page, given)
    return page.blocks


def table_of(given, nth=0):
    block = [one for one in blocks(given) if one["kind"] == "table"][nth]
    names = [name for name, _ in block["columns"]][1:]
    return {row[0]: dict(zip(names, row[1:])) for row in block["rows"]}


def test_every_cell_of_the_table():
    table = table_of(content())
    assert list(table["verdict"].items()) == [
        ("Before alignment", "–"), ("After alignment", "met"), ("Retrained", "met"), ("Resampled", "met"),
    ]  # fmt: skip
    assert table["distance to the target"]["Retrained"] == "0.200"
    assert table["distance to the target, corrected"]["After alignment"] == "0.150"
    cosine = table["similarity to the image before, subgroup kept"]
    assert list(cosine.values()) == ["–", "0.970", "0.970", "– (n\u00a0=\u00a00)"]
    assert table["Fréchet distance"]["Before alignment"] == "3.00"
    assert table["Fréchet distance, ratio to before"]["Resampled"] == "1.30"
    # the subgroup without a figure is no extreme
    assert table["Fréchet distance in subgroups, largest ratio"]["Resampled"] == "1.35, male"
    least = table["diversity in subgroups, smallest ratio"]
    assert least["After alignment"] == "0.930, male, features" and least["Retrained"] == "0.910, male, structure"
    assert table["images kept"] == {**dict.fromkeys(cosine, "all"), "Resampled": "612 of 1,800 (34%)"}
    assert table["forward and backward passes"]["After alignment"] == "28,800 of 43,200 allowed"
    assert table["forward and backward passes"]["Retrained"] == "43,200" and least["Before alignment"] == "–"
    # a stage of which nobody knows the time counts as nothing
    assert list(table["run time"].values()) == ["20.0 s", "4 min 0 s", "3 min 21 s", "40.0 s"]


def test_stages_are_told_once_with_the_arms_that_need_them():
    stages = stages_of(content()["costs"])
    assert stages["classifying guide"] == {"seconds": 40.0, "needed for": "After alignment, Resampled"}
    assert stages["retraining"] == {"seconds": 180.0, "needed for": "Retrained"}


@pytest.mark.parametrize(("spent", "same"), [(43200, True), (43210, True), (21600, False), (None, False)])
def test_the_heading_speaks_of_one_budget_where_it_is_one(spent, same):
    given = content()
    given["costs"]["retrained"]["gradient_images"] = spent
    assert (blocks(given)[0]["heading"] == "Alternatives at equal compute") is same


def test_without_costs_there_are_none_and_without_other_arms_there_is_nothing():
    given = content()
    given["costs"] = {}
    (table,) = [one for one in blocks(given) if one["kind"] == "table"]
    names = [row[0] for row in table["rows"]]
    assert "run time" not in names and "forward and backward passes" not in names and "images kept" in names
    assert blocks(content(("before", "after"))) == []


def test_an_arm_without_images_is_told_with_its_reason():
    given = content(("before", "after", "retrained"))
    given["costs"]["resampled"]["left_out"] = "no image is predicted as 'female'"
    found = blocks(given)
    (notice,) = [one for one in found if one["kind"] == "notice" and one["level"] == "warning"]
    assert notice["text"] == "Resampled: not reported, because no image is predicted as 'female'."
    assert "Resampled" not in table_of(given)["run time"]
