"""The answer of an experiment: what was asked, what the result is, how sure it is, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medi_monai.report.blocks.arms import arm_title
from medi_monai.report.blocks.overview import main_arms
from medi_monai.report.blocks.second_encoder import second_sentence
from medi_monai.report.words import number
from medi_monai.results.experiment import ENOUGH_TRAININGS, ExperimentResults
from medi_monai.results.probing import Comparison, ProbeResults
from medi_monai.utils.text import listed, plural

__all__ = ["MOST_BASELINES", "SENTENCES", "answer_sentences"]

#: what the sentences are about
SENTENCES = ("Question", "Result", "Certainty", "Next step")
#: maximum number of methods without generated images that are named
MOST_BASELINES = 3
#: levels of findings that need attention
ATTENTION = ("leakage", "error", "warning")


def answer_sentences(results: ExperimentResults) -> list[str]:
    """Return the sentences, in the order of :data:`SENTENCES`."""
    return [results.question, _result(results), _certainty(results), _next_step(results)]


def _result(results: ExperimentResults) -> str:
    probe, verdict = results.probe, results.verdict[0]
    chance = f" (chance {number(probe.training.chance, 2)})" if probe.training.chance else ""
    accuracies = []
    for arm in main_arms(probe):
        trained = "real images alone" if arm == "real" else f"{arm_title(arm)} images added"
        accuracies.append(f"{number(probe.arms[arm].balanced_accuracy.value, 2)} with {trained}")
    reached = f"Balanced accuracy{chance}: {listed(accuracies)}.{_best_without_generated(probe)}"
    headline, _, rest = verdict.text.partition(". ")
    if verdict.level == "error":
        # a reason not to rely on the figures comes before them
        return f"{verdict.text} {reached}"
    return f"{reached} {headline.removesuffix('.')}." if rest else f"{reached} {verdict.text}"


def _best_without_generated(probe: ProbeResults) -> str:
    """Say what the best methods without generated images reach, and whether that is at least as much as the focus."""
    best = probe.baselines[:MOST_BASELINES]
    if not best:
        return ""
    reached = listed(f"{number(probe.arms[arm].balanced_accuracy.value, 2)} with {arm_title(arm)}" for arm in best)
    text = f" Best methods without generated images: {reached}."
    if _baseline_is_as_accurate(probe):
        text += f" {arm_title(best[0])} is at least as accurate as {arm_title(probe.focus)}."
    return text


def _baseline_is_as_accurate(probe: ProbeResults) -> bool:
    if not probe.baselines:
        return False
    first, focus = (probe.arms[arm].balanced_accuracy.value for arm in (probe.baselines[0], probe.focus))
    return first is not None and focus is not None and first >= focus


def _certainty(results: ExperimentResults) -> str:
    probe, test, trainings = results.probe, results.probe.test, len(results.trainings)
    rows = {row.arms[1]: row for row in probe.comparisons if row.figure == "balanced_accuracy"}
    unit = "" if test.unit == "patient" else f" in {plural(test.num_units, test.unit)}"
    compared = {arm: rows[arm] for arm in (*main_arms(probe), probe.best_baseline) if arm in rows}
    findings = sum(finding.level in ATTENTION for finding in results.verdict[1:])
    sentences = [
        "Each model was trained only once, so the intervals do not include differences between trainings."
        if trainings == 1
        else f"Each model was trained {trainings} times (small dots).",
        f"Tested on {plural(test.n, 'image')} of {plural(test.patients, 'patient')}{unit}.",
        _reading(arm_title(probe.focus), compared, len(rows)) if compared else "",
        second_sentence(results.second),
        f"{plural(findings, 'finding needs', 'findings need')} attention: see Findings." if findings else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _next_step(results: ExperimentResults) -> str:
    """Say what would make the result valid, more certain, or more useful; the first of these that applies."""
    probe = results.probe
    first = probe.baselines[0] if _baseline_is_as_accurate(probe) else None
    if results.verdict[0].level == "error":
        return "Mend the error, and run the experiment again."
    if results.cohort.demo:
        return "Run the experiment on your own images (dataset_dir)."
    if len(results.trainings) == 1:
        return f"Train each model at least {ENOUGH_TRAININGS} times (num_trainings), to see how much trainings differ."
    if first:
        return f"Consider {arm_title(first)} first: it needs no generator."
    return "Confirm the result on patients of another hospital."


def _reading(focus: str, rows: Mapping[str, Comparison], num_comparisons: int) -> str:
    """Say which differences may be due to chance: those that are not significant, as the verdict has it."""
    corrected = f" (p values corrected for {num_comparisons} comparisons)" if num_comparisons > 1 else ""
    clear, unclear, unknown = (
        [arm_title(arm) for arm, row in rows.items() if row.significant is given] for given in (True, False, None)
    )
    said, owner = [], f"{focus}'s"
    if clear:
        be = "is" if len(clear) == 1 else "are"
        said.append(f"{owner} {_differences_from(clear)} {be} unlikely to be due to chance")
    if unclear:
        said.append(f"{'its' if clear else owner} {_differences_from(unclear)} could be due to chance")
    text = f"{', but '.join(said)}{corrected}." if said else ""
    if unknown:
        text += f" For the {_differences_from(unknown)}, there is no p value."
    return text.strip()


def _differences_from(others: Sequence[str]) -> str:
    return f"{'difference' if len(others) == 1 else 'differences'} from {' and '.join(others)}"
