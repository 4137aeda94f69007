"""The glossary: words that pages use and a reader may not know, each explained once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["GLOSSARY", "used_terms"]

#: words with the pattern by which their use is found, and their meaning
GLOSSARY = {
    "Balanced accuracy": (
        r"balanced accuracy",
        "Share of correct predictions, calculated for each class and then averaged, so that rare classes count as "
        "much as common ones. Guessing reaches 1 / number of classes (chance).",
    ),
    "Unseen combination": (
        r"\bunseen\b|not (seen )?in training|held[ -]out combination",
        "A class at a hospital for which training had no image, although it had other classes from that hospital and "
        "the same class from other hospitals. A classifier that relies on the hospital fails there.",
    ),
    "Fréchet distance": (
        r"Fréchet distance",
        "Difference between two sets of images, such as generated and real ones: how far the means and the spread of "
        "their features are apart. 0 is no difference. Only distances from the same encoder can be compared.",
    ),
    "Floor": (
        r"\bfloor\b|real images of (other|different) patients",
        "The distance between real images of different patients, computed with the same number of images. Generated "
        "images cannot be expected to come closer.",
    ),
    "Interval": (
        r"\bintervals?\b|95% CI",
        "Range in parentheses, or line in a plot, that covers the true value in 95 of 100 such studies. A difference "
        "whose interval includes 0 may be due to chance.",
    ),
    "Encoder": (
        r"\bencoders?\b|\bfeatures\b",
        "A fixed network or set of filters that describes each image with numbers, its features. Distances and "
        "classifiers see only these numbers, so they miss whatever the encoder does not see.",
    ),
}


def used_terms(content: Any) -> dict[str, str]:
    """Return the words of the glossary that occur in the blocks of a page, with their meaning."""
    text = " ".join(_texts(content))
    return {word: meaning for word, (use, meaning) in GLOSSARY.items() if re.search(use, text, re.IGNORECASE)}


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            if name != "source":  # a picture
                yield from _texts(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _texts(value)
