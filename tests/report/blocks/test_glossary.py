import re

import pytest

from medi_monai.report.blocks.glossary import used_terms
from medi_monai.report.page import Page


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Balanced accuracy 0.7", "Balanced accuracy"),
        ("combinations not seen in training", "Unseen combination"),
        ("Combinations not in training", "Unseen combination"),
        ("mean Fréchet distance", "Fréchet distance"),
        ("the floor of 2.5", "Floor"),
        ("95% confidence intervals", "Interval"),
        ("frozen features", "Encoder"),
    ],
)
def test_a_word_is_found_wherever_it_stands_on_a_page(text, word):
    assert word in used_terms([{"kind": "fold", "blocks": [{"caption": text}]}])
    assert word not in used_terms([{"text": "Nothing of it. Floors are red; unforeseen."}])


def test_the_page_explains_the_words_that_it_uses_in_one_fold_and_no_others():
    source = Page("T").glossary().text("The Fréchet distance.").section("More", "A floor.").html()
    assert re.findall(r"<dt>(.*?)</dt>", source) == ["Fréchet distance", "Floor"]
    assert source.count("Words on this page") == 1
    assert "Words on this page" not in Page("T").glossary().text("Nothing.").html()
    assert "<dt>" not in Page("T").text("The floor.").html()
