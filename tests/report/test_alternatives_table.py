"""The section of alternatives: what stands in its cells, and what is left out without a word of it."""

import pytest
from result_contents import NONE, alignment_with, figure

from medi_monai.report.alternatives_table import add_alternatives, lower_distances, stages_of
from medi_monai.report.page import Page
from medi_monai.report.sections import StageTime
from medi_monai.results import typed
from medi_monai.results.alignment import AlignmentMetrics


def content(others=("retrained", "resampled")):
    given = alignment_with(*others)
    arms = ("before", "after", *others)
    ratios = {"before": 1.0, "after": 0.8, "retrained": 0.9, "resampled": 1.3}
    spread = {"before": (1.0, 1.0), "after": (0.97, 0.93), "retrained": (0.91, 0.99), "resampled": (1.01, 1.02)}
    groups = given["fidelity"]
    groups["female"] = {**groups["all"], "arms": {arm: {**groups["all"]["arms"][arm], "ratio": NONE} for arm in arms}}
    for group, added in (("all", 0.0), ("male", 0.05)):
        figures = {**groups[group]["arms"]["after"], "frechet_distance": figure(3.0)}
        by_arm = {arm: {**figures, "ratio": figure(ratios[arm] + added)} for arm in arms}
        groups[group] = {**groups[group], "arms": by_arm}
    for index, arm in enumerate(arms):
        distance = 0.4 - index / 10
        corrected = {"total_variation": figure(distance / 2), "kl": NONE, "proportions": {}, "undefined": None}
        given["distance_to_target"][arm] = {
            "sex": {"total_variation": figure(distance), "kl": NONE, "corrected": corrected}
        }
    structure, features = zip(*(spread[arm] for arm in arms))
    given["diversity"] = {
        "male": {
            arm: {"ms_ssim": figure(0.5, ratio=figure(first)), "features": figure(9.0, ratio=figure(second))}
            for arm, first, second in zip(arms, structure, features)
        }
    }
    stages = {"aligning": 200.0, "classifying guide": 40.0}
    return {
        **given,
        "chosen": {"resampled": {"images": 612, "of": 1800}} if "resampled" in others else {},
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
    add_alternatives(page, typed(AlignmentMetrics, given))
    return page.blocks


def table_of(given, nth=0):
    block = [one for one in blocks(given) if one["kind"] == "table"][nth]
    names = [name for name, _ in block["columns"]][1:]
    return {row[0]: dict(zip(names, row[1:])) for row in block["rows"]}


def test_every_cell_of_the_table():
    table = table_of(content())
    assert list(table["verdict"].items()) == [
        ("Before alignment", "–"), ("After alignment", "missed"), ("Retrained", "met"), ("Resampled", "met"),
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


def test_lower_distances_of_alternatives_are_said():
    # the tuned model has 0.80 of all images and 0.85 of men; of women, nobody has a figure
    given = content()
    assert lower_distances(typed(AlignmentMetrics, given)) == ""
    arms = given["fidelity"]["male"]["arms"]
    arms["resampled"] = {**arms["resampled"], "ratio": figure(0.72)}
    sentence = (
        "Resampled has a lower Fréchet distance than the tuned model, relative to before alignment "
        "(tuned model in parentheses): male 0.72 (0.85)."
    )
    assert lower_distances(typed(AlignmentMetrics, given)) == sentence
    assert any(block.get("text") == sentence for block in blocks(given))


def test_stages_are_told_once_with_the_arms_that_need_them():
    stages = stages_of(typed(AlignmentMetrics, content()).costs)
    assert stages["classifying guide"] == StageTime(40.0, ("after", "resampled"))
    assert stages["retraining"] == StageTime(180.0, ("retrained",))


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
    assert blocks(content(())) == []


def test_an_arm_without_images_is_told_with_its_reason():
    given = content(("retrained",))
    given["costs"]["resampled"]["left_out"] = "no image is predicted as 'female'"
    found = blocks(given)
    (notice,) = [one for one in found if one["kind"] == "notice" and one["level"] == "warning"]
    assert notice["text"] == "Resampled: not reported, because no image is predicted as 'female'."
    assert "Resampled" not in table_of(given)["run time"]
