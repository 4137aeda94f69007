import os
import time

import pytest

from medi_monai.cohort.tables import list_tcga_ut
from medi_monai.utils.errors import InputError

SLIDES = {
    # the two slides of one patient in this order have their images in the other one: "." comes before "/"
    "Uterine_Carcinosarcoma": ["TCGA-NA-A4QV-01Z-00-DX1", "TCGA-NA-A4QV-01Z-00-DX1.svs", "TCGA-N5-A4R8-01Z-00-DX1"],
    "Lung_squamous_cell_carcinoma": ["TCGA-18-3406-01Z-00-DX1.0A1B2C3D-0000-4AAA-8BBB-0123456789AB"],
}


def tree(root, level="", patches=3):
    """Write a small tree and return its rows by a plain walk of what was written."""
    rows = []
    for label, slides in SLIDES.items():
        for slide in slides:
            folder = root / label / level / slide
            folder.mkdir(parents=True)
            for number in range(patches):
                (folder / f"{number}_0_10{number}.jpg").touch()
                image = (folder / f"{number}_0_10{number}.jpg").relative_to(root).as_posix()
                rows.append((image, slide, slide[:12], slide.split("-")[1], label))
    return sorted(rows)


def test_a_tree_becomes_its_rows(tmp_path):
    expected = tree(tmp_path)
    table, strays = list_tcga_ut(tmp_path)
    assert table.columns.tolist() == ["image", "slide", "patient", "site", "label"]
    assert list(table.itertuples(index=False, name=None)) == expected and strays == []
    assert set(table["site"]) == {"NA", "N5", "18"}


def test_a_published_tree_needs_its_level(tmp_path):
    expected = tree(tmp_path, "0")
    tree(tmp_path / "other", "5")
    os.rename(tmp_path / "other" / "Uterine_Carcinosarcoma" / "5", tmp_path / "Uterine_Carcinosarcoma" / "5")
    (tmp_path / "other").rename(tmp_path.parent / f"{tmp_path.name}-other")
    table, _ = list_tcga_ut(tmp_path, "0")
    assert list(table.itertuples(index=False, name=None)) == expected
    assert set(list_tcga_ut(tmp_path, "5")[0]["label"]) == {"Uterine_Carcinosarcoma"}
    assert ("Lung_squamous_cell_carcinoma", "has no folder of the level '5'") in list_tcga_ut(tmp_path, "5")[1]
    with pytest.raises(InputError, match="levels 0, 5.*level"):
        list_tcga_ut(tmp_path)
    with pytest.raises(InputError, match="unknown level '3'.*Known: '0', '5'"):
        list_tcga_ut(tmp_path, "3")


def test_what_is_no_part_of_the_tree_is_listed_and_not_fatal(tmp_path):
    expected = tree(tmp_path)
    label, slide = "Uterine_Carcinosarcoma", SLIDES["Uterine_Carcinosarcoma"][0]
    (tmp_path / "README.txt").touch()
    (tmp_path / label / "note.jpg").touch()
    (tmp_path / label / "thumbnails").mkdir()
    (tmp_path / label / slide / "Thumbs.db").touch()
    (tmp_path / label / slide / "deeper").mkdir()
    (tmp_path / label / "TCGA-N5-A4R9-01Z-00-DX1").mkdir()
    (tmp_path / label / "up").symlink_to("../..", target_is_directory=True)
    (tmp_path / label / slide / "self.jpg").symlink_to("self.jpg")
    (tmp_path / label / slide / "gone.jpg").symlink_to("nowhere.jpg")
    table, strays = list_tcga_ut(tmp_path)
    assert list(table.itertuples(index=False, name=None)) == expected
    reasons = dict(strays)
    assert sorted(reasons) == sorted(
        [
            "README.txt",
            f"{label}/note.jpg",
            f"{label}/thumbnails",
            f"{label}/{slide}/Thumbs.db",
            f"{label}/{slide}/deeper",
            f"{label}/TCGA-N5-A4R9-01Z-00-DX1",
            f"{label}/up",
            f"{label}/{slide}/self.jpg",
            f"{label}/{slide}/gone.jpg",
        ]
    )
    assert "loop" in reasons[f"{label}/up"] and "loop" in reasons[f"{label}/{slide}/self.jpg"]
    assert "broken symbolic" in reasons[f"{label}/{slide}/gone.jpg"] and "barcode" in reasons[f"{label}/thumbnails"]
    assert "without patches" in reasons[f"{label}/TCGA-N5-A4R9-01Z-00-DX1"]


def test_linked_folders_are_followed(tmp_path):
    expected = tree(tmp_path / "store")
    (tmp_path / "data").mkdir()
    for label in SLIDES:
        (tmp_path / "data" / label).symlink_to(tmp_path / "store" / label, target_is_directory=True)
    table, strays = list_tcga_ut(tmp_path / "data")
    assert list(table.itertuples(index=False, name=None)) == expected and strays == []


def test_an_empty_or_missing_tree_is_a_clear_error(tmp_path):
    with pytest.raises(InputError, match="contains no patches"):
        list_tcga_ut(tmp_path)
    (tmp_path / "A" / "slide").mkdir(parents=True)
    with pytest.raises(InputError, match="contains no patches"):
        list_tcga_ut(tmp_path)
    with pytest.raises(InputError, match="folder of TCGA-UT not found"):
        list_tcga_ut(tmp_path / "absent")


def test_a_tree_is_listed_at_tens_of_thousands_of_patches_a_second(tmp_path):
    for slide in range(20):
        folder = tmp_path / "A" / f"TCGA-0{slide % 10}-A{slide:03d}-01Z-00-DX1"
        folder.mkdir(parents=True)
        for number in range(500):
            os.close(os.open(folder / f"{number}.jpg", os.O_CREAT))
    start = time.process_time()
    assert len(list_tcga_ut(tmp_path)[0]) == 10_000
    assert time.process_time() - start < 1
