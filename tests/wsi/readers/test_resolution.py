import math

import pytest

from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers.resolution import resolution

NOTHING = (None, None)


@pytest.mark.parametrize(
    ("stored", "declared", "expected"),
    [
        (("0.25", "0.26"), None, (0.25, 0.26)),
        (("0.25", "0.25"), 0.251, (0.25, 0.25)),
        (("0.25", "0.26"), 0.2551, (0.25, 0.26)),
        (NOTHING, 0.3, (0.3, 0.3)),
        (("0.25", None), 0.3, (0.3, 0.3)),
        (("", "abc"), 0.3, (0.3, 0.3)),
        (("39.9", "39.9"), None, (39.9, 39.9)),
    ],
)
def test_who_says_counts(stored, declared, expected):
    for on_conflict in ("error", "file", "given"):
        assert resolution("slide.svs", stored, declared, on_conflict) == expected


@pytest.mark.parametrize(("on_conflict", "expected"), [("file", (0.25, 0.26)), ("given", (0.5, 0.5))])
def test_one_who_counts_is_named_where_they_disagree(on_conflict, expected):
    assert resolution("slide.svs", ("0.25", "0.26"), 0.5, on_conflict) == expected


@pytest.mark.parametrize("declared", [0.5, 0.2563, 0.2537, 1e-3, 99])
def test_two_that_disagree_are_an_error_that_says_both(declared):
    # a field of view may be half a percent off
    with pytest.raises(InputError, match=f"folder/a.svs has 0.255 .*{declared:g}.*mpp_conflict"):
        resolution("folder/a.svs", ("0.25", "0.26"), declared)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600])
def test_a_default_of_image_editors_is_no_resolution(dpi):
    stored = (str(25400 / dpi), str(25400 / dpi))
    assert resolution("a.tiff", stored, 0.25) == (0.25, 0.25)
    with pytest.raises(InputError, match=r"a\.tiff does not contain its resolution"):
        resolution("a.tiff", stored, None)


@pytest.mark.parametrize("value", ["0", "-0.25", "nan", "inf", "abc", "", "0,25", "1e9", "0x10", None])
def test_what_is_no_length_says_nothing(value):
    for stored in ((value, value), (value, "0.25"), ("0.25", value)):
        assert resolution("a.svs", stored, 0.3) == (0.3, 0.3)
        with pytest.raises(InputError, match=r"a\.svs does not contain its resolution.*source_mpp"):
            resolution("a.svs", stored, None)


def test_pixels_that_are_not_square_need_a_choice():
    assert resolution("a.svs", ("0.25", "0.274"), None) == (0.25, 0.274)
    assert resolution("a.svs", ("0.274", "0.25"), None) == (0.274, 0.25)
    for stored in (("0.25", "0.276"), ("0.5", "0.25")):
        for given in (None, 0.25):
            with pytest.raises(
                InputError, match=f"a.svs .*not square: {stored[0]} x {stored[1]} microns.*mpp_conflict"
            ):
                resolution("a.svs", stored, given)
            assert resolution("a.svs", stored, given, "file") == (float(stored[0]), float(stored[1]))
        assert resolution("a.svs", stored, 0.25, "given") == (0.25, 0.25)
        with pytest.raises(InputError, match="not square.*source_mpp"):
            resolution("a.svs", stored, None, "given")


@pytest.mark.parametrize("declared", [0, 0.0, -0.5, 100, 1e9, math.nan, math.inf, -math.inf])
def test_an_impossible_number_given_is_refused(declared):
    for stored in (NOTHING, ("0.25", "0.25")):
        with pytest.raises(InputError, match=f"{declared} microns per pixel is not a valid resolution for a.svs"):
            resolution("a.svs", stored, declared)


def test_an_unknown_choice_names_those_there_are():
    with pytest.raises(InputError, match="'fill'.*did you mean 'file'.*'error', 'file', 'given'"):
        resolution("a.svs", ("0.25", "0.25"), 0.25, "fill")
