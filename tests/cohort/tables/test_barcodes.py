import random
import string

import pandas as pd
import pytest

from medi_monai.cohort.tables import BARCODE_PARTS, match_barcodes, parse_barcodes
from medi_monai.utils.errors import InputError

CODE = string.digits + string.ascii_uppercase


def random_barcode(draw):
    """A slide barcode, its parts in the order of BARCODE_PARTS, and a file name that begins with it."""
    site = draw.choice(["NA", "01", "3B", *("".join(draw.choices(CODE, k=2)) for _ in range(5))])
    patient = f"TCGA-{site}-{''.join(draw.choices(CODE, k=4))}"
    sample, vial, portion = draw.choice(["01", "06", "11"]), draw.choice("ABZ"), f"{draw.randrange(100):02d}"
    letters = draw.choice(["DX", "TS", "MS", "BS"])
    slide = f"{patient}-{sample}{vial}-{portion}-{letters}{draw.choice(['1', '12', 'A', 'K'])}"
    uuid = "-".join("".join(draw.choices(string.hexdigits, k=size)) for size in (8, 4, 4, 4, 12))
    name = slide + draw.choice(["", "." + uuid]) + draw.choice(["", ".svs", ".ome.tiff", ".png"])
    return name, (patient, site, sample, vial, portion, slide, "diagnostic" if letters == "DX" else "frozen")


def test_parts_of_random_barcodes_equal_those_they_were_made_of():
    draw = random.Random(0)
    names, fields = zip(*(random_barcode(draw) for _ in range(500)))
    index = draw.sample(range(5000), 500)
    table = parse_barcodes(pd.Series(names, index=index, dtype="str"))
    assert tuple(table.columns) == BARCODE_PARTS and table.index.tolist() == index
    assert [tuple(row) for row in table.itertuples(index=False)] == list(fields)


def test_codes_that_look_like_missing_data_or_numbers_survive():
    table = parse_barcodes(pd.Series(["TCGA-NA-A4QV-01Z-00-DX1", "TCGA-01-0629-11A-01-BS1"]))
    assert table["site"].tolist() == ["NA", "01"] and table["sample_type"].tolist() == ["01", "11"]
    assert table["section"].tolist() == ["diagnostic", "frozen"]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "TCGA",
        "TCGA-3B-A9HI",
        "TCGA-3B-A9HI-01Z",
        "TCGA-3B-A9HI-01Z-00",
        "TCGA-3B-A9HI-01Z-00-DX",
        "TCGA-3B-A9HI-01Z-00-XX1",
        "TCGA-3-A9HI-01Z-00-DX1",
        "TCGA-3B-A9H-01Z-00-DX1",
        "tcga-3b-a9hi-01z-00-dx1",
        " TCGA-3B-A9HI-01Z-00-DX1",
        "TCGA-3B-A9HI-01Z-00-DX1.not-a-uuid.svs",
        "TCGA-3B-A9HI-01Z-00-DX1\n",
        "C3L-00004-21",
    ],
)
def test_a_malformed_barcode_is_named_with_the_count(wrong):
    good = "TCGA-3B-A9HI-01Z-00-DX1"
    with pytest.raises(InputError, match="not a TCGA slide barcode") as caught:
        parse_barcodes(pd.Series([good, wrong, good, "other"]))
    assert repr(wrong) in str(caught.value) and "1 others of 4" in str(caught.value)
    fields = match_barcodes(pd.Series([wrong, good]))
    assert fields.iloc[0].tolist() == [""] * len(BARCODE_PARTS) and fields.loc[1, "slide"] == good


def test_a_part_of_a_barcode_will_do_where_the_whole_is_not_needed():
    names = pd.Series(["TCGA-3B-A9HI", "TCGA-3B-A9HI-01Z", "TCGA-3B-A9HI-06A-02", "TCGA-3B-A9HI-01Z-00-DX1"])
    fields = parse_barcodes(names, whole=False)
    assert set(fields["patient"]) == {"TCGA-3B-A9HI"}
    assert fields["sample_type"].tolist() == ["", "01", "06", "01"]
    assert fields["portion"].tolist() == ["", "", "02", "00"]
    assert fields["slide"].tolist() == ["", "", "", "TCGA-3B-A9HI-01Z-00-DX1"]
    with pytest.raises(InputError, match="'TCGA-3B'"):
        parse_barcodes(pd.Series(["TCGA-3B"]), whole=False)


def test_no_names_have_no_parts():
    assert parse_barcodes(pd.Series([], dtype="str")).shape == (0, len(BARCODE_PARTS))


def test_barcodes_of_the_real_table_agree_with_its_columns(real_data):
    table = pd.read_csv(real_data / "tcga" / "slides.csv", dtype=str, keep_default_na=False)
    fields = parse_barcodes(table["slide_submitter_id"])
    assert (fields["patient"] == table["case_submitter_id"]).all()
    assert ((fields["sample_type"] + fields["vial"]) == table["sample_type_code"]).all()
    assert (fields["slide"].str.rsplit("-", n=1).str[1] == table["tissue_slide_id"]).all()
    disagree = fields["site"] != table["tissue_source_site"]
    assert disagree.sum() == 11 and set(table.loc[disagree, "project_id"]) == {"TCGA-UCS"}
    assert set(fields.loc[disagree, "site"]) == {"NA"} and set(table.loc[disagree, "tissue_source_site"]) == {""}
