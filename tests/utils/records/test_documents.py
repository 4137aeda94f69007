import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_json
from medi_monai.utils.records import Document, parse_document, read_document, sealed


class Recipe(Document):
    TITLE = "a recipe"
    FORMAT = 3
    steps: int
    names: list[str]
    digest: str | None = None


CONTENT = {"format": 3, "steps": 5, "names": ["a"]}


def test_what_is_right_is_read(tmp_path):
    write_json(tmp_path / "recipe.json", CONTENT)
    recipe = read_document(tmp_path / "recipe.json", Recipe)
    assert recipe.steps == 5 and recipe.names == ["a"]
    assert parse_document(sealed(CONTENT), Recipe, "it").steps == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], r"^x.json is not a recipe: it holds \[\]$"),
        ({"steps": 5, "names": []}, "has no `format`"),
        ({**CONTENT, "format": 4}, "the format 4, and this version of medi_monai reads format 3: update medi_monai"),
        ({**CONTENT, "format": 2}, "the format 2, .* it is damaged, or not a recipe"),
        ({**CONTENT, "format": True}, "the format True"),
        ({**CONTENT, "color": 1}, "has 'color', which this version of medi_monai does not know: a newer version"),
        ({"format": 3, "names": []}, "'steps' is missing"),
        ({**CONTENT, "steps": "5"}, "steps = '5': .*integer"),
        ({**CONTENT, "names": ["a", 3]}, "names.1 = 3: .*string"),
        ({**CONTENT, "steps": "5\n" * 200}, "steps = '5.*…"),
        ({**sealed(CONTENT), "steps": 6}, "does not fit its digest"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(content, says):
    with pytest.raises(InputError, match=says) as caught:
        parse_document(content, Recipe, "x.json")
    assert "\n" not in str(caught.value) and "x.json" in str(caught.value)
