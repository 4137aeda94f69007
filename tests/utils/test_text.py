import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medi_monai.utils.text import (
    alike,
    are_intervals,
    escape_unprintable,
    escaped,
    in_order,
    look_alikes,
    number_in,
    plural,
    tidy,
)


@pytest.mark.parametrize(
    ("text", "number"), [("0.25", 0.25), (" 1 ", 1.0), ("-3", -3.0), ("1e3", 1000.0), (".5", 0.5), ("2.", 2.0)]
)
def test_numbers_as_people_write_them(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize("text", ["1_0", "0,5", "nan", "inf", "1e999", "٣", "１", "0x10", "", "1 0", "five", "1.2.3"])
def test_what_is_no_number(text):
    assert number_in(text) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_as_it_is_written(number):
    assert number_in(repr(number)) == number


@given(st.text(max_size=12))
def test_forms_blanks_and_invisible_characters_do_not_count(text):
    for other in (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text), f" {text} ", f"{text}\u200b"):
        assert alike(other) == alike(text)
    assert tidy(tidy(text)) == tidy(text)


def test_look_alikes_are_grouped_in_their_order():
    values = ["Köln", "Ko\u0308ln", "LUAD", "luad", "7", "07", "x", "A  b", "A b", "0", "00", "10"]
    assert look_alikes(values) == [["Köln", "Ko\u0308ln"], ["LUAD", "luad"], ["7", "07"], ["A  b", "A b"], ["0", "00"]]


def test_names_that_are_not_utf_8_are_written_out():
    name = b"M\xfcller.png".decode("utf-8", "surrogateescape")
    assert escaped(name) == "M\\xfcller.png" and escaped("Köln") == "Köln"


def test_a_terminal_in_ascii_gets_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    escape_unprintable()
    print("Köln", b"\xfc".decode("utf-8", "surrogateescape"), flush=True)
    assert stream.buffer.getvalue() == b"K\\xf6ln \\udcfc\n"


def test_bins_are_sorted_by_their_numbers_and_other_values_as_text():
    bins = ["<40", "40-59", "60 to 79", "80–99", "100-109", "110+", ">120"]
    assert are_intervals(bins) and in_order(bins[::-1]) == bins
    for values in (["02", "1", "10"], ["c10", "c2"], ["40-59", "unknown"], []):
        assert not are_intervals(values) and in_order(values[::-1]) == sorted(values)


def test_plurals():
    assert [plural(count, "image") for count in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]
    assert plural(1, "patch", "patches") == "1 patch" and plural(3, "patch", "patches") == "3 patches"
