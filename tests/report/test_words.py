import pytest

from medi_monai.report.words import p_statement, p_text


@pytest.mark.parametrize(
    ("value", "text", "statement"),
    [
        (None, "–", "p undefined"),
        (float("nan"), "–", "p undefined"),
        (0.0, "< 0.001", "p < 0.001"),
        (0.00099, "< 0.001", "p < 0.001"),
        (0.001, "0.001", "p = 0.001"),
        (0.0351, "0.035", "p = 0.035"),
        (0.99, "0.990", "p = 0.99"),
        (0.9901, "> 0.99", "p > 0.99"),
        (1.0, "> 0.99", "p > 0.99"),
    ],
)
def test_p_values_are_bounds_near_0_and_1(value, text, statement):
    assert (p_text(value), p_statement(value)) == (text, statement)
