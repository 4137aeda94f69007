import copy
import dataclasses

import pytest
from result_contents import arms_content, comparison, probe_content

from medi_monai.report.blocks.experiment_answer import SENTENCES, answer_sentences
from medi_monai.results import Finding, typed
from medi_monai.results.experiment import ExperimentResults

FIGURES = {"balanced_accuracy": 0.7, "frechet_distance": 5.0, "frechet_distance_unseen": None, "label_fidelity": 0.8,
           "attribute_fidelity": {}}  # fmt: skip


def results(p_values=None, verdict=None, trainings=1, **probe):
    """Of four arms at 0.5, 0.6, 0.7 and 0.8; ``p_values`` are corrected, by arm; None: undefined."""
    content = {**probe_content(), **probe}
    if p_values is not None:
        rows = {arm: comparison("balanced_accuracy", arm, 0.1) for arm in p_values}
        for arm, p_value in p_values.items():
            rows[arm]["p_holm"] = p_value
            if p_value is None:
                rows[arm]["difference"] |= {"value": None, "ci95": None}
        content["comparisons"] = list(rows.values())
    training = {"seed": 0, "arms": {"cls": FIGURES, "medi": FIGURES}, "evaluation": "page.html"}
    return typed(
        ExperimentResults,
        {
            "question": "Does it help?",
            "cohort": {"label": "tumor", "attributes": ["center"], "dir": "c", "counts": {},
                       "combinations": {"seen": 1, "unseen": 1}},
            "fidelity": arms_content(),
            "probe": content,
            "trainings": [training] * trainings,
            "links": {},
            "settings": {},
            "seconds": {},
            "verdict": verdict or [{"level": "note", "text": "Not decided: too uncertain. Real: +0.1."}],
        },
    )  # fmt: skip


def test_the_sentences_are_question_result_certainty_and_next_step():
    question, result, certainty, _ = answer_sentences(results())
    assert len(SENTENCES) == 4 and question == "Does it help?"
    assert result == (
        "Balanced accuracy (chance 0.50): 0.50 with real images alone, 0.70 with Class-only images added, "
        "0.80 with MeDi images added. Best methods without generated images: 0.60 with Stain-normalized. "
        "Not decided: too uncertain."
    )
    assert certainty.startswith(
        "Each model was trained only once, so the intervals do not include differences between trainings. Tested on "
        "3,517 images of 32 patients in 10 combinations. MeDi's differences from Real and "
    )


def test_it_is_said_plainly_that_a_method_without_generated_images_does_as_well():
    arms = copy.deepcopy(probe_content()["arms"])
    arms["stain_normalized"]["balanced_accuracy"]["value"] = 0.81
    result = answer_sentences(results(arms=arms))[1]
    assert "0.81 with Stain-normalized. Stain-normalized is at least as accurate as MeDi." in result


@pytest.mark.parametrize(
    ("p_values", "reading"),
    [
        (
            {"real": 0.07, "cls": 0.6},
            "MeDi's differences from Real and Class-only could be due to chance (p values corrected for 2 ",
        ),
        (
            {"real": 0.01, "cls": 0.04},
            "MeDi's differences from Real and Class-only are unlikely to be due to chance (p",
        ),
        (
            {"real": 0.01, "cls": 0.6},
            "MeDi's difference from Real is unlikely to be due to chance, but its difference from Class-only could ",
        ),
        ({"real": None}, "For the difference from Real, there is no p value."),
    ],
)
def test_it_says_which_differences_chance_may_explain(p_values, reading):
    assert reading in answer_sentences(results(p_values))[2]


def test_a_reason_not_to_rely_on_the_figures_comes_before_them():
    errors = [{"level": "error", "text": "The generator is not trained: 2%. Train it for longer."}]
    result = answer_sentences(results(verdict=errors))[1]
    assert result.startswith("The generator is not trained: 2%. Train it for longer. Balanced accuracy")


def test_findings_that_need_attention_are_counted_and_trainings_as_well():
    levels = ["note", "warning", "error", "ok"]
    verdict = [{"level": level, "text": "x."} for level in levels]
    certainty = answer_sentences(results(verdict=verdict, trainings=3))[2]
    assert "2 findings need attention" in certainty and "trained 3 times" in certainty


def test_patients_are_no_combinations_and_what_is_undefined_is_said():
    content = copy.deepcopy(probe_content()["test"])
    content |= {"unit": "patient", "num_units": 32}
    certainty = answer_sentences(results({"real": None}, test=content))[2]
    assert "For the difference from Real, there is no p value." in certainty and " in 32 " not in certainty


def test_the_next_step_depends_on_what_the_result_lacks():
    def of(**changes):
        return answer_sentences(dataclasses.replace(results(trainings=3), **changes))[-1]

    demo = dataclasses.replace(results().cohort, demo=True)
    assert (
        of(verdict=(Finding("error", "Patients leak."),), cohort=demo)
        == "Mend the error, and run the experiment again."
    )
    assert of(cohort=demo) == "Run the experiment on your own images (dataset_dir)."
    assert answer_sentences(results())[-1].startswith("Train each model at least 3 times (num_trainings)")
    assert of() == "Confirm the result on patients of another hospital."
    arms = copy.deepcopy(probe_content()["arms"])
    arms["stain_normalized"]["balanced_accuracy"]["value"] = 0.81
    better = answer_sentences(results(arms=arms, trainings=3))[-1]
    assert better == "Consider Stain-normalized first: it needs no generator."
