import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medi_monai.report.page import Page
from medi_monai.utils.errors import InputError


class ParsedPage(HTMLParser):
    """What a browser would see: tags with attributes, text without markup, rows of tables, pictures."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.rows, self.pictures, self.links = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            kind, content = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", attributes["src"]).groups()
            self.pictures.append((kind, Image.open(io.BytesIO(base64.b64decode(content))), attributes))
        elif tag == "a":
            self.links.append(attributes["href"])

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and self.rows[-1] and self.tags[-1][0] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data

    @property
    def text(self):
        return "\n".join(self.texts)


def figure():
    drawn = Figure(figsize=(3, 2))
    drawn.subplots().plot([1, 2])
    return drawn


HOSTILE = "<script>alert(1)</script> & \"quotes\" 'and' {{ page }} {% raw %} </style> Ç 核 \u202e"


def test_all_text_is_escaped_wherever_it_stands():
    page = Page(HOSTILE, HOSTILE).answer([HOSTILE]).section(HOSTILE, HOSTILE).text(HOSTILE).notice(HOSTILE)
    page.link(HOSTILE, "page.html").footnote(HOSTILE)
    frame = pd.DataFrame({HOSTILE: [HOSTILE]}, index=pd.Index([HOSTILE], name=HOSTILE))
    page.table(frame, HOSTILE).figure(np.zeros((4, 4), np.uint8), HOSTILE)
    found = ParsedPage(page.html())
    assert {tag for tag, _ in found.tags} & {"script"} == set()
    assert found.text.count(HOSTILE) == 16
    assert found.pictures[0][2]["alt"] == HOSTILE


def test_the_page_needs_no_other_file_and_no_network():
    html = Page("Title").section("A").section("B").section("C").figure(figure(), "x").html()
    found = ParsedPage(html)
    assert found.links == ["#s1", "#s2", "#s3"]
    anchors = [attributes["id"] for tag, attributes in found.tags if tag == "h2"]
    assert anchors == ["s1", "s2", "s3"]
    sources = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert {tag for tag, _ in found.tags} & {"script", "link", "iframe"} == set()
    assert "url(" not in html and "@import" not in html
    policy = next(given["content"] for tag, given in found.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_it_reads_by_night_and_on_paper():
    html = Page("Title").html()
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert html.startswith("<!DOCTYPE html>") and 'lang="en"' in html and "<title>Title</title>" in html


def test_two_sections_need_no_links():
    assert ParsedPage(Page("Title").section("A").section("B").html()).links == []


def test_the_answer_comes_before_the_links_to_what_is_behind_it():
    html = Page("Title").answer(["Yes.", "For two reasons."], "ok").section("A").section("B").section("C").html()
    places = [html.index(text) for text in ("<p>Yes.</p><p>For two reasons.</p>", "<nav>", '<h2 id="s1">A')]
    assert places == sorted(places) and 'class="answer ok"' in html


def test_a_link_leads_to_a_file_beside_the_page():
    html = Page("Title").link("The audit", "cohort/the audit.html").link("x", "javascript:alert(1)").html()
    assert ParsedPage(html).links == ["cohort/the%20audit.html", "javascript%3Aalert%281%29"]


def test_a_folded_table_shows_its_caption():
    found = ParsedPage(Page("Title").table(pd.DataFrame({"a": [1]}), "Settings", folded=True).html())
    assert "summary" in {tag for tag, _ in found.tags} and found.rows == [["a"], ["1"]]
    assert "details" not in {tag for tag, _ in ParsedPage(Page("Title").table(pd.DataFrame({"a": [1]})).html()).tags}


def test_the_footer_names_the_code_and_the_data():
    footer = Page("Title").footnote("cohort 44316a").html().partition("<footer>")[2]
    assert footer.startswith("cohort 44316a · medi_monai ")


def test_cells_read_as_people_write_them():
    frame = pd.DataFrame(
        {
            "count": pd.Series([1, 1234567, None], dtype=object),
            "share": [0.123456, 12345.6, float("nan")],
            "name": ["01", None, "NA"],
            "fits": [True, False, True],
            "whole": [3, 20, 1000],
        }
    )
    found = ParsedPage(Page("Title").table(frame).html())
    assert found.rows == [
        ["count", "share", "name", "fits", "whole"],
        ["1", "0.123", "01", "yes", "3"],
        ["1,234,567", "12,346", "–", "no", "20"],
        ["–", "–", "NA", "yes", "1,000"],
    ]
    right = [attributes.get("class") == "number" for tag, attributes in found.tags if tag in ("th", "td")]
    assert right == [True, True, False, False, True] * 4


def test_the_rows_of_a_table_have_headings_where_its_index_has_a_meaning():
    frame = pd.DataFrame({"n": [1, 2], "site": ["x", "y"]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))
    frame.index.names = ["site", None]
    found = ParsedPage(Page("Title").table(frame).html())
    assert found.rows == [["site", "", "n", "site"], ["a", "1", "1", "x"], ["b", "2", "2", "y"]]
    assert sum(attributes.get("scope") == "row" for _, attributes in found.tags) == 4


def test_equal_names_of_columns_are_no_hindrance():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert ParsedPage(Page("Title").table(frame).html()).rows == [["a", "a"], ["1", "2"]]


@pytest.mark.parametrize(("rows", "sentence"), [(3, ""), (4, ""), (1204, "4 of 1,204 rows are shown.")])
def test_a_long_table_says_how_much_is_not_shown(rows, sentence):
    found = ParsedPage(Page("Title").table(pd.DataFrame({"a": range(rows)}), max_rows=4).html())
    assert len(found.rows) == 1 + min(rows, 4)
    assert ("rows are shown" in found.text) == bool(sentence) and sentence in found.text


def test_a_table_without_rows_has_its_header():
    assert ParsedPage(Page("Title").table(pd.DataFrame({"a": []})).html()).rows == [["a"]]


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 4)])
def test_a_small_picture_is_kept_to_the_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for picture in (pixels, Image.fromarray(pixels)):
        ((kind, image, attributes),) = ParsedPage(Page("Title").figure(picture, "caption").html()).pictures
        assert kind == "png" and np.array_equal(np.asarray(image), pixels)
        assert attributes["alt"] == "caption" and attributes["style"] == "width: 30px"


def test_a_large_photograph_becomes_a_jpeg_and_a_transparent_one_does_not():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 4), dtype=np.uint8)
    found = ParsedPage(Page("Title").figures([(pixels[..., :3], "a"), (pixels, "b")]).html())
    assert [kind for kind, *_ in found.pictures] == ["jpeg", "png"]
    assert found.pictures[0][1].size == (300, 300)


def test_a_palette_image_is_shown_in_its_colors():
    image = Image.new("RGB", (8, 8), (200, 30, 90)).convert("P")
    ((_, shown, _),) = ParsedPage(Page("Title").figure(image).html()).pictures
    assert shown.convert("RGB").getpixel((3, 3)) == image.convert("RGB").getpixel((3, 3))


def test_a_figure_is_drawn_finer_than_it_is_shown():
    ((kind, image, attributes),) = ParsedPage(Page("Title").figure(figure(), "plot").html()).pictures
    shown = int(re.fullmatch(r"width: (\d+)px", attributes["style"])[1])
    assert kind == "png" and shown == pytest.approx(image.width / 1.5, abs=1)
    assert Page("Title").figure(figure()).html() == Page("Title").figure(figure()).html()


def test_a_gallery_keeps_order_captions_and_width():
    pictures = [(np.full((4, 4), shade, np.uint8), f"patch {shade}") for shade in (1, 2, 3)]
    found = ParsedPage(Page("Title").figures(pictures, width=120).html())
    assert [np.asarray(image)[0, 0] for _, image, _ in found.pictures] == [1, 2, 3]
    assert [given["alt"] for *_, given in found.pictures] == ["patch 1", "patch 2", "patch 3"]
    assert all(given["style"] == "width: 120px" for *_, given in found.pictures)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(InputError, match="uint8"):
        Page("Title").figure(pixels)


def test_the_level_of_a_notice_is_a_word_as_well():
    page = Page("Title")
    for level in ("error", "warning", "note", "ok"):
        page.notice("something", level)
    found = ParsedPage(page.html())
    assert [attributes["class"] for tag, attributes in found.tags if tag == "div"] == [
        "notice error", "notice warning", "notice note", "notice ok",
    ]  # fmt: skip
    assert [word for word in found.texts if word.isupper()] == ["ERROR", "WARNING", "NOTE", "OK"]
    with pytest.raises(InputError, match="did you mean 'warning'"):
        page.notice("something", "waring")


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "page.html"
    assert Page("Title", "first").write(target) == target
    before = target.read_text(encoding="utf-8")
    assert before == Page("Title", "first").html()
    broken = Page("Title")
    broken.blocks.append({"kind": "table"})
    with pytest.raises(Exception):  # noqa: B017
        broken.write(target)
    assert target.read_text(encoding="utf-8") == before and [file.name for file in target.parent.iterdir()] == [
        "page.html"
    ]


def test_a_file_name_that_is_not_utf_8_does_not_stop_the_page(tmp_path):
    name = b"slide-\xff.svs".decode("utf-8", "surrogateescape")
    assert "slide-?.svs" in Page("Title").text(name).write(tmp_path / "page.html").read_text(encoding="utf-8")
