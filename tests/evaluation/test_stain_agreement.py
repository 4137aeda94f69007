import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.evaluation.stain_agreement import compare_stain
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json

TONES = {"x": 90, "y": 160, "z": 220}
COLUMNS = ("project_id", "center")
DARKER = {"a": 0, "b": 40}


@pytest.fixture
def arms(tmp_path):
    """Held-out patches of two classes and three centers; one arm copies them, one knows the class alone."""
    rows = {"real": [], "medi": [], "cls": []}
    for label in DARKER:
        for center, tone in TONES.items():
            for arm, shown in (("real", tone), ("medi", tone), ("cls", 150)):
                name = f"{arm}_{label}_{center}.png"
                (tmp_path / arm).mkdir(exist_ok=True)
                pixels = np.full((8, 8, 3), shown - DARKER[label], np.uint8)
                Image.fromarray(pixels).save(tmp_path / arm / name)
                rows[arm].append((name, label, center))
    tables = {arm: pd.DataFrame(cells, columns=["image", "project_id", "center"]) for arm, cells in rows.items()}
    real = tables["real"].assign(slide="s", patient="p", split="holdout")
    Cohort(real, tmp_path / "real").write()
    for arm in ("medi", "cls"):
        tables[arm].to_csv(tmp_path / arm / "manifest.csv", index=False)
    return tmp_path


def test_a_copy_has_slope_1_and_a_class_only_model_slope_0(arms):
    figures = compare_stain(arms / "real", {"cls": arms / "cls", "medi": arms / "medi"}, arms, COLUMNS)
    assert figures["medi"]["slope"] == pytest.approx(1) and figures["medi"]["r"] == pytest.approx(1)
    assert figures["cls"]["slope"] == pytest.approx(0, abs=1e-9) and figures["cls"]["r"] is None
    assert read_json(arms / "stain.json")["arms"]["medi"]["n"] == 6
    with Image.open(arms / "comparison.png") as page:
        assert page.width > 3 * 64 and page.height > 6 * 64


def test_without_cells_there_are_figures_and_no_picture(arms):
    assert compare_stain(arms / "real", {"medi": arms / "medi"}, arms, COLUMNS, per_cell=0)["medi"][
        "slope"
    ] == pytest.approx(1)
    assert (arms / "stain.json").is_file() and not (arms / "comparison.png").exists()


def test_arms_that_share_no_combination_are_refused(arms):
    with pytest.raises(InputError, match="split 'train'"):
        compare_stain(arms / "real", {"medi": arms / "medi"}, arms, COLUMNS, split="train")
