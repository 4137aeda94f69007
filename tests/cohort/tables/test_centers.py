import pandas as pd
import pytest

from medi_monai.cohort.tables import CENTER_ALIASES, parse_barcodes, read_code_table, spellings
from medi_monai.utils.errors import InputError


def write(path, rows):
    pd.DataFrame(rows, columns=["code", "center"]).to_csv(path, index=False)
    return path


def test_codes_stay_strings_and_aliases_are_merged(tmp_path):
    path = write(
        tmp_path / "t.csv", [("01", "UNC"), ("1", "Duke"), ("NA", "University of North Carolina"), ("X", "--")]
    )
    names = spellings({"UNC": ["University of North Carolina"]})
    assert read_code_table(path, "code", "center", names) == {"01": "UNC", "1": "Duke", "NA": "UNC", "X": "--"}
    assert read_code_table(path, "code", "center")["NA"] == "University of North Carolina"


def test_a_code_may_occur_twice_with_one_center_alone(tmp_path):
    path = write(tmp_path / "t.csv", [("01", "UNC"), ("01", "University of North Carolina"), ("02", "A")])
    assert read_code_table(path, "code", "center", spellings("tcga"))["01"] == "University of North Carolina"
    with pytest.raises(InputError, match="'01' stands for 'UNC' and for 'University of North Carolina'"):
        read_code_table(path, "code", "center")


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    path = write(tmp_path / "t.csv", [("01", "A")])
    with pytest.raises(InputError, match="'centre'.*did you mean 'center'"):
        read_code_table(path, "code", "centre")


@pytest.mark.parametrize(
    ("aliases", "says"),
    [
        ("tgca", "did you mean 'tcga'"),
        ({"A": ["x"], "B": ["x"]}, "'x' is a spelling of 'A' and of 'B'"),
        ({"A": ["B"], "B": ["C"]}, "'B' has spellings of its own"),
        (["A"], "names with lists"),
    ],
)
def test_aliases_that_contradict_themselves_are_refused(aliases, says):
    with pytest.raises(InputError, match=says):
        spellings(aliases)


def test_a_single_spelling_needs_no_list():
    assert spellings({"A": "b"}) == {"b": "A"} and spellings(None) == {}


def test_every_shipped_alias_is_a_spelling_of_the_real_table(real_data):
    codes = read_code_table(real_data / "tcga" / "tissue_source_sites.csv", "tissue_source_site", "center")
    assert len(codes) == 830 and len(set(codes.values())) == 215
    assert {name for names in CENTER_ALIASES.items() for name in (names[0], *names[1])} <= set(codes.values())


def test_no_code_occurs_in_two_projects_and_centers_reach_23_or_merged_26(real_data):
    slides = pd.read_csv(real_data / "tcga" / "slides.csv", dtype=str, keep_default_na=False)
    site = parse_barcodes(slides["slide_submitter_id"])["site"]
    assert (len(slides), site.nunique(), slides["project_id"].nunique()) == (8726, 626, 32)
    assert slides["project_id"].groupby(site).nunique().max() == 1
    path = real_data / "tcga" / "tissue_source_sites.csv"
    reached = {}
    for aliases in (None, "tcga"):
        center = site.map(read_code_table(path, "tissue_source_site", "center", spellings(aliases)))
        assert center.notna().all() and (center != "").all()
        counts = slides["project_id"].groupby(center).nunique()
        reached[aliases] = (center.nunique(), counts.max(), counts.idxmax())
    assert reached[None] == (184, 23, "International Genomics Consortium")
    assert reached["tcga"] == (148, 26, "University of North Carolina")
