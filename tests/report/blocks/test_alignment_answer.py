import pytest
from result_contents import NONE, VALUES, alignment_content, alignment_with

from medi_monai.report.blocks.alignment_answer import alignment_sentences, forest_caption, share_forest
from medi_monai.results import typed
from medi_monai.results.alignment import AlignmentMetrics


def metrics(given=None):
    return typed(AlignmentMetrics, given or alignment_content())


def test_the_sentences_are_verdict_shares_and_quality():
    verdict, shares, quality = alignment_sentences(metrics())
    assert verdict == "The target is missed."
    assert shares.startswith("Shares, corrected for misclassification: female 10.0% before and 40.0% after alignment")
    assert "within the allowed limits" in quality and "The model was tuned once" in quality


def test_of_two_values_one_is_plotted_with_its_target_and_the_distance_beside():
    given = metrics(alignment_with("resampled"))
    forest = share_forest(given, "sex")
    shares, distances = forest.columns
    assert shares.heading.startswith("share of female") and shares.mark == 0.5 and distances.mark == 1
    assert [row.title for row in forest.rows] == [
        "Before alignment", "After alignment", "Resampled", "Real training images",
    ]  # fmt: skip
    assert [name for name, _ in forest.families()] == ["", "alternatives", "for reference"]
    before, after, _, training = (row.cells for row in forest.rows)
    assert [cell.figure.value for cell in (before[0], after[0], training[0])] == pytest.approx([0.1, 0.4, 0.2])
    assert before[1].figure is None and training[1].figure is None, "they are what others are compared with"
    assert after[1].figure == given.fidelity["all"].arms["after"].ratio and after[1].strong
    assert forest.rows[-1].reference and "corrected for its errors" in forest_caption(given, "sex")


def test_shares_are_those_of_the_judge_where_they_cannot_be_corrected():
    given = alignment_content()
    given["distance_to_target"]["after"]["sex"]["corrected"] = {
        "proportions": dict.fromkeys(VALUES, NONE), "total_variation": NONE, "kl": NONE, "undefined": "no reason",
    }  # fmt: skip
    found = metrics(given)
    assert "not corrected for its errors" in forest_caption(found, "sex")
    assert share_forest(found, "sex").rows[1].cells[0].figure == found.proportions["after"]["sex"]["female"]
    assert alignment_sentences(found)[1].startswith("Shares, not corrected")
