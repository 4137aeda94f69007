import pytest
from matplotlib.colors import to_rgb

from medi_monai.report.blocks.arms import ARMS, arm_look, arm_looks, arm_title
from medi_monai.report.page import Page
from medi_monai.report.words import share_table


def test_every_arm_has_a_title_words_a_valid_color_and_a_look_of_its_own():
    assert len({arm.title for arm in ARMS.values()}) == len(ARMS)
    assert all(arm.words and len(to_rgb(arm.color)) == 3 for arm in ARMS.values())
    # arms that can share a page; those of an alignment have their own
    looks = [arm_look(name) for name in ARMS if name not in ("before", "after", "retrained", "resampled", "held_out")]
    assert len(set(looks)) == len(looks)


def test_unknown_arms_get_looks_in_order_that_known_ones_do_not_change():
    looks = arm_looks(["mine", "medi", "yours"])
    assert looks["medi"] == arm_look("medi") and arm_look("mine") is None
    assert looks == {**arm_looks(["mine", "yours"]), "medi": looks["medi"]} and looks["mine"] != looks["yours"]


@pytest.mark.parametrize(
    ("name", "added", "title"),
    [("medi", ["medi"], "Real + MeDi"), ("medi", [], "MeDi"), ("mine_filtered", ["mine"], "Real + mine, filtered")],
)
def test_a_title_says_what_is_added(name, added, title):
    assert arm_title(name, added) == title


def test_a_row_of_a_known_arm_has_its_color_on_every_page():
    rows = {arm_title("medi", ["medi"]): {"n": 1}, arm_title("mine"): {"n": 2}, "Real": {"n": 3}}
    source = Page("T").table(share_table(rows, "images")).html()
    assert f'<i style="background: {ARMS["medi"].color}"></i>Real + MeDi</th>' in source
    assert source.count("<i style=") == 1, "not a value that happens to be named like an arm"
