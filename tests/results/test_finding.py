import pytest

from medi_monai.results import Finding
from medi_monai.utils.errors import InputError


def test_a_finding_has_a_known_level():
    assert Finding("warning", "Few images.").figures == {}
    with pytest.raises(InputError, match="warning"):
        Finding("warn", "Few images.")
