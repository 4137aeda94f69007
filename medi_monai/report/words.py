"""Format figures, counts and names as text; an undefined figure is a dash with its count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medi_monai.report.blocks.arms import arm_title, arm_words
from medi_monai.results import Figure, Finding
from medi_monai.results.probing import Comparison, ProbeResults
from medi_monai.utils.text import listed

__all__ = [
    "arm_title",
    "arm_words",
    "class_text",
    "difference_text",
    "duration_text",
    "figure_text",
    "known",
    "main_source",
    "number",
    "p_statement",
    "p_text",
    "percent_text",
    "setting_text",
    "settings_findings",
    "share_table",
    "short",
    "signed",
    "source_names",
    "sources_text",
    "span",
    "trainings_text",
]

#: what pages say first if their real images are those of a demo cohort
DEMO = (
    "Demonstration: all images, including those called real, were drawn by a program; patients and centers are made "
    "up. The results say nothing about real patients."
)
DASH = "–"
#: non-breaking space, which keeps the parts of a figure on one line
FIXED = "\u00a0"
#: sources of variance by name
SOURCES = {
    "test": "test {unit}s",
    "draws": "training patients",
    "images": "generated images",
    "trainings": "trainings of the generators",
}
LONGEST_NAME, LONGEST_SETTING = 34, 240


def known(value: float | None) -> float | None:
    """Return a finite number, or ``None`` if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def number(value: float | None, decimals: int | None = None) -> str:
    """Format a number to three digits or to a fixed number of decimals, with a true minus sign; a dash if unknown."""
    given = known(value)
    if given is None:
        return DASH
    if decimals is not None:
        text = f"{given:.{decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")
    if given == 0 or abs(given) >= 999.5:
        return f"{given:,.0f}".replace("-", "−")
    # keep trailing zeros, so that an interval has the same number of digits as its figure
    return f"{given:#.3g}".removesuffix(".").replace("-", "−")


def figure_text(figure: Figure | None, decimals: int | None = None) -> str:
    """Format a figure with its interval, or a dash with its count if it is undefined."""
    if figure is None:
        return DASH
    if figure.value is None:
        return DASH if figure.n is None else f"{DASH} (n{FIXED}={FIXED}{figure.n:,})"
    return number(figure.value, decimals) + span(figure.ci95, decimals)


def signed(value: float | None, decimals: int = 3) -> str:
    """Format a difference with its sign; 0 has none, also if it is due to rounding."""
    text = number(value, decimals)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def difference_text(difference: Figure, decimals: int = 3) -> str:
    """Format a difference and its interval, all with their signs."""
    if difference.value is None or not difference.ci95:
        return signed(difference.value, decimals)
    low, high = (signed(edge, decimals) for edge in difference.ci95)
    return f"{signed(difference.value, decimals)} ({low}{FIXED}to{FIXED}{high})"


def percent_text(figure: Figure | None, interval: bool = True) -> str:
    """Format a share as a percentage, with its interval if it has one and ``interval`` is set."""
    if figure is None or figure.value is None:
        return figure_text(figure)
    text = f"{number(100 * figure.value, 1)}%"
    if interval and figure.ci95:
        low, high = (number(100 * edge, 1) for edge in figure.ci95)
        text += f" ({low}%{FIXED}to{FIXED}{high}%)"
    return text


def span(interval: Sequence[float] | None, decimals: int | None = None) -> str:
    """Format an interval in parentheses, preceded by a space; empty if there is none."""
    if not interval:
        return ""
    low, high = (number(edge, decimals) for edge in interval)
    return f" ({low}{FIXED}to{FIXED}{high})"


def p_text(value: float | None) -> str:
    """Format a p value to three decimals, or as a bound near 0 and 1."""
    given = known(value)
    return DASH if given is None else _p_bound(given) or f"{given:.3f}"


def p_statement(value: float | None) -> str:
    """Return a statement such as "p = 0.035", "p < 0.001" or "p > 0.99"."""
    given = known(value)
    return "p undefined" if given is None else f"p {_p_bound(given) or f'= {given:.2g}'}"


def _p_bound(value: float) -> str:
    # a corrected p value is often 1, which reads as an error
    return "< 0.001" if value < 0.001 else "> 0.99" if value > 0.99 else ""


def class_text(label: str) -> str:
    """Return how pages name the class: "the class", with the column that it comes from unless that says so."""
    return "the class" if label == "class" else f"the class ({label})"


def short(name: object, length: int = LONGEST_NAME) -> str:
    """Return a name on one line, truncated to ``length`` characters."""
    text = " ".join(str(name).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def share_table(rows: Mapping[str, Mapping[str, Any]], heading: str) -> pd.DataFrame:
    """Return a table with one row per key and the index named ``heading``; columns in order of first occurrence."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    index = pd.Index(list(rows), name=heading, dtype=object)
    return pd.DataFrame([{**dict.fromkeys(columns), **row} for row in rows.values()], index=index, columns=columns)


def settings_findings(differing: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what to say about sampling settings that differ between arms, with the value of each arm.

    Guidance belongs to an arm, as each may have the scales that suit it, and is noted. Any other setting that differs
    is a warning.
    """
    by_name = {
        name: f"{name} ({', '.join(f'{arm_title(arm)}: {short(value, 60)}' for arm, value in values.items())})"
        for name, values in differing.items()
    }
    guidance = [text for name, text in by_name.items() if "guidance" in name]
    others = [text for name, text in by_name.items() if "guidance" not in name]
    findings = []
    if others:
        text = (
            f"The arms were sampled with different settings: {'; '.join(others)}. Differences between arms may be due "
            "to these settings rather than the method."
        )
        findings.append(Finding("warning", text))
    if guidance:
        findings.append(Finding("note", f"Each arm was sampled with its own guidance: {'; '.join(guidance)}."))
    return findings


def sources_text(results: ProbeResults) -> str:
    """Return what the intervals of a probing count as drawn anew, in words."""
    return listed(source_names(results.test.unit, {results.focus: results.num_trainings}))


def source_names(unit: str, trainings: Mapping[str, int], generated: bool = True) -> list[str]:
    """Return what intervals count as drawn anew, in words, the test units first.

    Args:
        unit: what the test units are.
        trainings: number of trainings by arm.
        generated: whether generated images are among them.
    """
    several = max(trainings.values(), default=1) > 1
    names = ["test", "draws", *(["images"] if generated else []), *(["trainings"] if several else [])]
    return [SOURCES[name].format(unit=unit) for name in names]


def trainings_text(trainings: Mapping[str, int]) -> str:
    """Return how many trainings a mean is over, by title of the arm, to follow the number of draws."""
    titles: dict[int, list[str]] = {}
    for title, number in trainings.items():
        titles.setdefault(number, []).append(title)
    several = [f"{listed(of)}: of each of {number} trainings" for number, of in titles.items() if number > 1]
    return f" ({'; '.join(several)})" if several else ""


def main_source(row: Comparison, unit: str) -> str:
    """Return the largest source of the variance of a difference with its share, ``unit`` being the test unit."""
    total = sum(row.variance.values())
    if not total:
        return DASH
    name, variance = max(row.variance.items(), key=lambda item: item[1])
    return f"{SOURCES[name].format(unit=unit)} ({variance / total:.0%})"


def setting_text(value: Any) -> str:
    """Format the value of a setting on one line."""
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not len(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return short(", ".join(map(setting_text, value)), LONGEST_SETTING)
    return short(value, LONGEST_SETTING)


def duration_text(seconds: float | None) -> str:
    """Format seconds as seconds, minutes or hours."""
    given = known(seconds)
    if given is None:
        return DASH
    if given < 60:
        return f"{given:.1f} s"
    minutes, rest = divmod(round(given), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
