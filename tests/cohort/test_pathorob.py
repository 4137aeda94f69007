"""The overlay for PathoROB reads its tables, with the images unpacked as the docs say."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from medi_monai.cohort import ImageTable

ROOT = Path(__file__).parents[2]
#: columns as in data/metadata; the names of slides and patches are of the kinds that its three data sets have
ROWS = [
    ("ID", "test_035", "34317", "normal", "RUMC", "test_035"),
    ("ID", "tumor_058", "7", "tumor", "RUMC", "tumor_058"),
    ("OOD", "patient_017_node_2", "12", "tumor", "CWZ", "patient_017"),
    ("OOD", "patient_017_node_4", "12", "normal", "CWZ", "patient_017"),
    ("ID", "TCGA-E9-A1R5-01Z-00-DX1", "0_0_521", "Breast_invasive_carcinoma", "Asterand", "TCGA-E9-A1R5"),
    ("ID", "case_030", "advent.10", "ADVENT", "VALSET2_WNS", "case_030"),
    ("ID", "case_030", "advent.100", "ADVENT", "VALSET2_WNS", "case_030"),
]
COLUMNS = ["subset", "slide_id", "patch_id", "biological_class", "medical_center"]


def png(number):
    content = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(content, format="PNG")
    return content.getvalue()


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """A folder in the layout of the benchmark, after the snippet of the docs was run in it."""
    table = pd.DataFrame([row[:5] for row in ROWS], columns=COLUMNS)
    # of the paired tables, a patch has a row for each of its subsets
    pd.concat([table, table.iloc[:2].assign(subset="other")]).to_csv(tmp_path / "camelyon.csv", index=False)
    (tmp_path / "PathoROB-camelyon" / "data").mkdir(parents=True)
    for shard, rows in enumerate((table[:3], table[3:])):
        images = [{"bytes": png(number), "path": None} for number in rows.index]
        rows.assign(image=images).to_parquet(
            tmp_path / "PathoROB-camelyon" / "data" / f"train-0000{shard}-of-00002.parquet"
        )
    docs = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    (snippet,) = [code for code in re.findall(r"```python\n(.*?)```", docs, re.S) if "PathoROB-camelyon" in code]
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/your_data.md", "exec"), {})
    return tmp_path


def test_every_patch_is_a_row_with_its_class_center_and_patient(unpacked):
    overlay = yaml.safe_load((ROOT / "configs" / "cohorts" / "pathorob.yaml").read_text(encoding="utf-8"))
    names = ("table", "label", "columns", "mapping", "unit", "source_mpp")
    source = ImageTable(unpacked, attributes=overlay["metadata_columns"], **{name: overlay[name] for name in names})
    rows = source.rows()
    used = rows[rows["problem"] == ""]
    found = used[["image", "slide", "patient", "biological_class", "center"]].itertuples(index=False, name=None)
    assert sorted(found) == sorted(
        (f"images/{slide}/{patch}.png", slide, patient, label, center)
        for _, slide, patch, label, center, patient in ROWS
    )
    assert source.files_without_row(rows) == []
    for number, (_, slide, patch, *_) in enumerate(ROWS):
        assert np.asarray(Image.open(unpacked / "images" / slide / f"{patch}.png")).max() == number
