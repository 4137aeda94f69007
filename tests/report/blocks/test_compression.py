import html

from medi_monai.report.blocks.compression import add_compression, add_compression_effect
from medi_monai.report.page import Page
from medi_monai.results.measures import CompressionEffect


def text_of(page, tmp_path):
    return html.unescape(page.write(tmp_path / "page.html").read_text(encoding="utf-8"))


def test_compression_by_center(tmp_path):
    group = {"images": 4, "schemes": {"JPEG": 0.75, "PNG": 0.25}, "lossy": 0.75}
    quality = {"median": 81.5, "lowest": 72.0, "highest": 90.0}
    north = {"value": "north", **group, "quality": quality}
    south = {"value": "south", **group, "quality": None}
    page = Page("Audit")
    section = {"all": {**group, "images": 8, "quality": quality}, "by": {"center": [north, south]}}
    add_compression(page, {"compression": section})
    text = text_of(page, tmp_path)
    for shown in ("Compression by center", "north", "south", "JPEG 75%, PNG 25%", "81.5", "8 source images"):
        assert shown in text


def test_without_inspected_images_there_is_no_section():
    page = Page("Audit")
    add_compression(page, {"compression": None})
    add_compression(page, {})
    assert page.blocks == []


def test_effect_of_compression(tmp_path):
    page = Page("Evaluation")
    effect = CompressionEffect(75, 3, 96, {"floor": 2.0, "medi": 5.0}, {"floor": 1.5, "medi": 4.0})
    add_compression_effect(page, effect, "Real images of other patients")
    text = text_of(page, tmp_path)
    assert "Effect of JPEG compression (quality 75)" in text and "3 combinations, 96 matched images" in text
    for shown in ("Real images of other patients", "MeDi", "0.75", "0.8"):
        assert shown in text


def test_no_effect_was_measured():
    page = Page("Evaluation")
    add_compression_effect(page, None, "Real images")
    assert page.blocks == []
