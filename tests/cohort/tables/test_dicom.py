import pytest
from phantom import affine, head, write_dicom

from medi_monai.cohort.tables.dicom import age_in_years, list_series, series_digest
from medi_monai.cohort.tables.layouts import TableSpec
from medi_monai.utils.errors import InputError

pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "medi_monai[mr]"')


@pytest.fixture
def tree(tmp_path):
    few = head()[:8, :8, 8:12]
    for number, (sex, age, site) in enumerate([("F", "045Y", "North"), ("M", "018M", "South")]):
        tags = {"PatientID": f"P{number}", "PatientSex": sex, "PatientAge": age, "InstitutionName": site}
        for series, name in enumerate(("FLAIR axial", "localizer")):
            folder = tmp_path / "data" / f"p{number}" / name.split()[0]
            scanner = {"SeriesDescription": name, "ManufacturerModelName": "Skyra\n3T"}
            write_dicom(folder, few, affine(), f"1.2.{number}.{series}", **tags, **scanner)
    (tmp_path / "data" / "notes.txt").write_text("no DICOM")
    return tmp_path


def test_a_tree_becomes_a_table_with_tags_as_columns(tree):
    table, notes = list_series(tree / "data")
    assert table["image"].tolist() == ["p0/FLAIR", "p0/localizer", "p1/FLAIR", "p1/localizer"]
    assert table["patient"].tolist() == ["P0", "P0", "P1", "P1"] and notes == []
    assert table["PatientSex"].tolist() == ["F", "F", "M", "M"]
    assert table["PatientAge"].tolist() == ["45", "45", "1.5", "1.5"]
    assert set(table["ManufacturerModelName"]) == {"Skyra 3T"} and set(table["images"]) == {"4"}
    assert table["SeriesInstanceUID"].tolist() == ["1.2.0.0", "1.2.0.1", "1.2.1.0", "1.2.1.1"]


def test_series_are_chosen_by_their_description(tree):
    table, notes = list_series(tree / "data", "*flair*")
    assert table["image"].tolist() == ["p0/FLAIR", "p1/FLAIR"]
    assert notes == ["2 of 4 series are not used, as their SeriesDescription is not like *flair*"]
    with pytest.raises(InputError, match=r"SeriesDescription like '\*T2\*'. There are: FLAIR axial, localizer"):
        list_series(tree / "data", "*T2*")
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match="contains no DICOM images"):
        list_series(tree / "empty")


@pytest.mark.parametrize(
    ("text", "years"), [("045Y", "45"), ("018M", "1.5"), ("026W", "0.4983"), ("", ""), ("45", ""), ("045X", "")]
)
def test_ages_in_years(text, years):
    assert age_in_years(text) == years


def test_the_layout_lists_the_tree_below_its_path(tree):
    spec = TableSpec.from_setting({"layout": "dicom", "path": "data", "series": "*FLAIR*"})
    assert spec.read(tree, {"PatientSex": "attributes"}).table["image"].tolist() == ["data/p0/FLAIR", "data/p1/FLAIR"]
    before = spec.digest(tree)
    assert before == series_digest(tree / "data")
    (tree / "data" / "p0" / "FLAIR" / "IM0001.dcm").unlink()
    assert spec.digest(tree) != before
    with pytest.raises(InputError, match="option of the layout dicom"):
        TableSpec("slices.csv", series="*")
    with pytest.raises(InputError, match="folder not found"):
        TableSpec("absent", layout="dicom").read(tree, {})
