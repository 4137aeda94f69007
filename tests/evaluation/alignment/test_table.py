import pytest
from result_contents import alignment_content

from medi_monai.evaluation.alignment.table import alignment_table
from medi_monai.results import typed
from medi_monai.results.alignment import AlignmentMetrics


@pytest.fixture(scope="module")
def rows():
    return alignment_table(typed(AlignmentMetrics, alignment_content())).fillna("")


def test_a_row_has_the_figure_with_its_interval_and_names(rows):
    row = rows.query("arm == 'after' and metric == 'proportion of sex' and group == 'female' and reader == 'judge'")
    assert row[["value", "low", "high", "n"]].to_numpy().tolist() == [[0.4, pytest.approx(0.35), 0.45, 100]]
    (of_prompt,) = rows.query("arm == 'after' and prompt != ''").to_dict("records")
    assert of_prompt["prompt"] == "axial <FLAIR> & more" and of_prompt["value"] == 0.25 and of_prompt["low"] == ""


def test_only_the_judge_is_corrected_for_misclassification(rows):
    corrected = rows[rows["metric"].str.startswith("corrected")]
    assert set(corrected["reader"]) == {"judge"} and set(corrected["arm"]) == {"before", "after"}
    assert set(rows["reader"]) == {"judge", "guide", ""}


def test_every_kind_of_figure_has_rows_once(rows):
    assert not rows.duplicated(["arm", "metric", "group", "reader", "prompt"]).any()
    counts = rows.groupby("metric").size()
    # three groups of images, of the two arms and the floor; the ratio is that of an arm
    assert counts["frechet_distance"] == 9 and counts["frechet_distance_ratio"] == 6
    assert counts["diversity_ms_ssim"] == counts["diversity_features"] == 6
    assert counts["consistency"] == 4 and counts["clip_score"] == counts["prompt adherence"] == 2
