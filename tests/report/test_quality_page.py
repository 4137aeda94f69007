import base64
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cutting, ImageTable, Preparation, SplitScheme, prepare
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.extraction import THUMBNAIL, record_folder
from medi_monai.report import write_quality_page
from medi_monai.wsi import PatchGrid


class Seen(HTMLParser):
    """What a browser would show: headings, rows of tables, pictures with their captions, and where links lead."""

    def __init__(self, html):
        super().__init__()
        self.headings, self.rows, self.pictures, self.links, self.notices = [], [], [], [], []
        self.tag = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tag = tag
        self.links += [attributes[name] for name in ("src", "href", "srcset", "action") if name in attributes]
        if tag == "img":
            content = base64.b64decode(attributes["src"].partition(";base64,")[2])
            self.pictures.append((attributes["alt"], np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))))
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("h2",):
            self.headings.append("")
        elif tag == "div" and attributes.get("class", "").startswith("answer"):
            self.notices.append("")

    def handle_data(self, data):
        if self.tag in ("td", "th") and self.rows:
            self.rows[-1][-1] += data.strip()
        elif self.tag == "h2":
            self.headings[-1] += data.strip()
        elif self.notices:
            self.notices[-1] += data

    def table(self, first):
        """The rows of the table whose first column has this name, by their first cell."""
        start = next(place for place, row in enumerate(self.rows) if row and row[0] == first)
        return {row[0]: row[1:] for row in self.rows[start + 1 :]}


def page_of(root):
    html = write_quality_page(root, root / "quality.html").read_text(encoding="utf-8")
    return html, Seen(html)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three slides, one of them of glass, one that is truncated and one that no row names."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "slides").mkdir()
    rng = np.random.default_rng(0)
    for name, place in (("a", 0), ("b", 1), ("stray", 2)):
        write_pyramid(
            folder / f"slides/{name}.tiff", scan(*draw_stains(TUMORS[place], 512, 0.5, rng), CENTERS[0], 0.5, rng), 0.5
        )
    write_pyramid(folder / "slides/glass.tiff", np.full((512, 512, 3), 245, np.uint8), 0.5)
    (folder / "slides/cut.tiff").write_bytes((folder / "slides/a.tiff").read_bytes()[:9000])
    rows = [(f"{name}.tiff", name, f"P{name}", "<b>T</b>") for name in ("a", "b", "glass", "cut")]
    pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor"]).to_csv(folder / "t.csv", index=False)
    source = ImageTable(folder, "t.csv", "tumor", columns={"image": "slides/{image}"})
    splits = SplitScheme(["tumor"], fraction=0.0, val_fraction=0.0)
    with pytest.MonkeyPatch.context() as patch:
        here = lambda function, jobs, *more: (function(job) for job in jobs)  # noqa: E731
        patch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", here)
        return prepare(
            Preparation(source, Cutting(PatchGrid(32, 1.0)), splits), tmp_path_factory.mktemp("c"), "skip"
        ).root


def test_the_page_stands_alone(root):
    html, seen = page_of(root)
    assert all(link.startswith(("data:image/", "#")) for link in seen.links) and len(seen.links) > 5
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", html)


def test_every_row_left_out_is_named_with_its_reason(root):
    _, seen = page_of(root)
    rejected = seen.table("image")
    assert "truncated" in rejected["slides/cut.tiff"][1] and "no tissue" in rejected["slides/glass.tiff"][1]
    assert "no row" in rejected["slides/stray.tiff"][1]
    assert "3 rows or files were excluded" in seen.notices[0]


def test_slides_are_shown_with_tissue_and_patches_outlined_and_counted(root):
    _, seen = page_of(root)
    pictures = [(caption, picture) for caption, picture in seen.pictures if ".tiff" in caption]
    shown = {caption.split("\n")[0].removeprefix("slides/"): (caption, picture) for caption, picture in pictures}
    assert set(shown) == {"a.tiff", "b.tiff", "glass.tiff"}
    counts = pd.read_csv(root / "slides.csv").set_index("image")
    for name in ("a.tiff", "b.tiff"):
        caption, picture = shown[name]
        row = counts.loc[f"slides/{name}"]
        assert f"{row['patches']:.0f} of {row['planned']:.0f} patches" in caption
        assert "0.5 µm per pixel, 512 × 512" in caption and f"sharpness {row['sharpness']:.0f}" in caption
        red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
        assert ((blue > red + 80) & (blue > green + 80)).mean() > 0.01, "edges of patches in blue"
        assert ((green > red + 60) & (green > blue + 30)).mean() > 0.001, "the outline of the tissue in green"
    assert np.ptp(shown["glass.tiff"][1].astype(int)) < 20
    assert seen.rows[-1][:4] == ["slides/b.tiff", "512", "512", "0.5"]


def many(root, count, **columns):
    """A folder as a preparation of many slides leaves it, with an overview of each."""
    rng = np.random.default_rng(0)
    slides = pd.DataFrame({"image": [f"s{place:03d}.svs" for place in range(count)], "width": 900, "height": 700})
    slides = slides.assign(source_mpp=0.25, levels=3, tissue=rng.random(count), planned=500)
    slides = slides.assign(patches=rng.permutation(count) + 1, **columns)
    slides.to_csv(root / "slides.csv", index=False)
    for image in slides["image"]:
        folder = record_folder(root, image)
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), (200, 150, 190)).save(folder / THUMBNAIL)
    pd.DataFrame(columns=["image", "slide", "reason"]).to_csv(root / "rejected.csv", index=False)
    quality = {"tissue": rng.random(5 * count), **{name: rng.random(5 * count) for name in columns}}
    pd.DataFrame(quality).to_parquet(root / "quality.parquet")
    return slides


def test_of_many_slides_the_blurriest_the_emptiest_and_some_others_are_shown(tmp_path):
    sharpness = np.random.default_rng(1).permutation(100) * 10.0
    slides = many(tmp_path, 100, sharpness=sharpness, background=0.25)
    _, seen = page_of(tmp_path)
    names = [caption.split("\n")[0] for caption, _ in seen.pictures if ".svs" in caption]
    assert set(slides.nsmallest(8, "sharpness")["image"]) <= set(names[:8])
    assert set(slides.nsmallest(8, "patches")["image"]) <= set(names[8:16])
    evenly = [int(name[1:4]) for name in names[16:]]
    assert len(evenly) == 24 and (evenly[0], evenly[-1]) == (0, 99) and set(np.diff(evenly)) == {4, 5}
    assert seen.headings[:2] == ["Slides", "Blurriest slides"]
    assert "background 25%" in [caption for caption, _ in seen.pictures if ".svs" in caption][0]
    assert any("No row or file was excluded" in notice for notice in seen.notices)


def test_without_measures_the_page_does_without_them(tmp_path):
    many(tmp_path, 5)
    html, seen = page_of(tmp_path)
    assert "sharpness " not in "".join(caption for caption, _ in seen.pictures)
    assert sum(".svs" in caption for caption, _ in seen.pictures) == 5


def test_a_cohort_of_patch_files_has_no_slides_to_show(tmp_path):
    many(tmp_path, 1, sharpness=3.0, background=0.1)
    (tmp_path / "slides.csv").unlink()
    _, seen = page_of(tmp_path)
    assert "Slides" not in seen.headings and "Patches" in seen.headings and len(seen.pictures) == 1


def test_shares_are_drawn_from_0_to_1(tmp_path, monkeypatch):
    drawn = []
    from matplotlib.axes import Axes

    original = Axes.hist

    def keep(self, values, **options):
        drawn.append((original(self, values, **options)[1], options["range"]))

    monkeypatch.setattr(Axes, "hist", keep)
    many(tmp_path, 5, sharpness=3.0, background=0.0)
    page_of(tmp_path)
    limits = {(edges[0], edges[-1]) for edges, wanted in drawn if wanted}
    assert limits == {(0.0, 1.0)} and sum(wanted is not None for _, wanted in drawn) == 4


def test_a_sample_of_images_is_shown_with_patient_and_attributes(tmp_path):
    many(tmp_path, 1)
    (tmp_path / "slides.csv").unlink()
    rows = []
    for number in range(30):
        Image.fromarray(np.full((16, 16), 8 * number, np.uint8)).save(tmp_path / f"{number:02d}.png")
        rows.append((f"{number:02d}.png", "s", f"P{number}", "0", "0", "", "F" if number else "", "a brain", "train"))
    columns = ["image", "slide", "patient", "x", "y", "mpp", "sex", "caption", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "cohort.csv", index=False)
    _, seen = page_of(tmp_path)
    shown = [(caption, pixels) for caption, pixels in seen.pictures if caption.startswith("patient")]
    assert len(shown) == 24 and "Sample of images" in seen.headings
    assert shown[0][0].split("\n") == ["patient P0", "sex: missing", "caption: a brain"]
    assert shown[-1][0].split("\n") == ["patient P29", "sex: F", "caption: a brain"]
    assert (shown[-1][1] == 8 * 29).all()
    # patches that are not written to files have no image to show
    for number in range(30):
        (tmp_path / f"{number:02d}.png").unlink()
    assert "Sample of images" not in page_of(tmp_path)[1].headings
