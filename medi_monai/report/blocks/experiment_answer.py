"""The answer of an experiment in three sentences: what was asked, what the result is, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping

from medi_monai.report.blocks.arms import arm_title
from medi_monai.report.blocks.overview import main_arms
from medi_monai.report.encoders import second_sentence
from medi_monai.report.words import number, p_statement
from medi_monai.results.experiment import ExperimentResults
from medi_monai.results.probing import Comparison
from medi_monai.utils.text import listed, plural

__all__ = ["SENTENCES", "answer_sentences"]

#: what the sentences are about
SENTENCES = ("Question", "Result", "Certainty")
#: levels of findings that need attention
ATTENTION = ("leakage", "error", "warning")


def answer_sentences(results: ExperimentResults) -> list[str]:
    """Return the sentences, in the order of :data:`SENTENCES`."""
    return [results.question, _result(results), _certainty(results)]


def _result(results: ExperimentResults) -> str:
    probe, verdict = results.probe, results.verdict[0]
    chance = f" (chance {number(1 / len(probe.training.classes), 2)})" if probe.training.classes else ""
    accuracies = []
    for arm in main_arms(probe):
        trained = "real images alone" if arm == "real" else f"{arm_title(arm)} images added"
        accuracies.append(f"{number(probe.arms[arm].balanced_accuracy.value, 2)} with {trained}")
    best = probe.best_baseline
    if best:
        value = number(probe.arms[best].balanced_accuracy.value, 2)
        accuracies.append(f"{value} with the best method without generated images ({arm_title(best)})")
    reached = f"Balanced accuracy{chance}: {listed(accuracies)}."
    headline, _, rest = verdict.text.partition(". ")
    if verdict.level == "error":
        # a reason not to rely on the figures comes before them
        return f"{verdict.text} {reached}"
    return f"{reached} {headline.removesuffix('.')}." if rest else f"{reached} {verdict.text}"


def _certainty(results: ExperimentResults) -> str:
    probe, test = results.probe, results.probe.test
    rows = {row.arms[1]: row for row in probe.comparisons if row.figure == "balanced_accuracy"}
    best = probe.best_baseline
    compared = [arm for arm in (*main_arms(probe), best) if arm in rows]
    sentences = []
    if compared:
        differences = listed(f"{_difference(rows[arm])} compared with {_others(arm)}" for arm in compared)
        sentences.append(
            f"Adding {arm_title(probe.focus)} images changes accuracy by {differences}: "
            f"{_reading({arm: rows[arm] for arm in compared}, len(rows))}."
        )
    sentences.append(second_sentence(results.second))
    unit = "" if test.unit == "patient" else f" in {plural(test.num_units, test.unit)}"
    trainings = len(results.trainings)
    trained = (
        "each model was trained once, and another training may give different results"
        if trainings == 1
        else f"each model was trained {trainings} times (small dots)"
    )
    sentences.append(f"Tested on {plural(test.n, 'image')} of {plural(test.patients, 'patient')}{unit}; {trained}.")
    num_warnings = sum(finding.level in ATTENTION for finding in results.verdict[1:])
    if num_warnings:
        sentences.append(f"{plural(num_warnings, 'finding needs', 'findings need')} attention: see Findings.")
    return " ".join(sentence for sentence in sentences if sentence)


def _others(arm: str) -> str:
    return "real images alone" if arm == "real" else f"{arm_title(arm)}"


def _difference(row: Comparison) -> str:
    value, interval = row.difference.value, row.difference.ci95
    if value is None:
        return "an undefined amount"
    edges = f"{_signed(interval[0])} to {_signed(interval[1])}, " if interval else ""
    return f"{_signed(value)} ({edges}{p_statement(row.p_holm)})"


def _reading(rows: Mapping[str, Comparison], num_comparisons: int) -> str:
    """Say which differences chance could explain: those that are not significant, as the verdict has it."""
    if any(row.significant is None for row in rows.values()):
        return "without p values, it is not known whether chance explains these differences"
    corrected = f" after correction for {num_comparisons} comparisons" if num_comparisons > 1 else ""
    clear = [arm for arm, row in rows.items() if row.significant]
    if not clear:
        return f"chance could explain these differences{corrected}"
    if len(clear) == len(rows):
        return f"chance is an unlikely explanation of these differences{corrected}"
    unclear = [arm for arm in rows if arm not in clear]
    one, other = (" and ".join(map(_others, arms)) for arms in (clear, unclear))
    return f"chance is unlikely to explain the difference from {one}, but could explain that from {other}{corrected}"


def _signed(value: float) -> str:
    text = number(value, 3)
    return f"+{text}" if value > 0 and float(text) else text
