"""The verdict says what the figures say: help, no effect, harm; and its warnings."""

import copy

import pytest
from result_contents import arm_results, arms_content, comparison, figure, memory, probe_content

from medi_monai.evaluation.verdicts import metadata
from medi_monai.results import typed
from medi_monai.results.experiment import TrainedArm, TrainingSummary
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults


def compared(other, value, low, high, p, equivalence=0.9):
    row = comparison("balanced_accuracy", other, value)
    return {**row, "difference": figure(value, low, high), "p_value": p, "p_holm": p, "p_equivalence": equivalence}


def of_worst_group(row):
    return {**row, "figure": "worst_group_accuracy"}


def arm(balanced, worst):
    training = {"num_real": 10.0, "num_added": 0.0, "converged": 1.0, "c": 0.5}
    results = arm_results(balanced)
    worst_group = {**results["worst_group_accuracy"], **figure(worst), "group": "a · x"}
    trained = {**results["balanced_accuracy"], "trainings": [balanced] * 3}
    return {**results, "balanced_accuracy": trained, "worst_group_accuracy": worst_group, "training": training}


PROBE = probe_content(("real", "reweighted", "cls", "medi"), repeats=12)
#: figures of three trainings
PROBE["arms"] = {"real": arm(0.5, 0.1), "reweighted": arm(0.55, 0.2), "cls": arm(0.5, 0.1), "medi": arm(0.75, 0.4)}
PROBE["comparisons"] = [
    compared("real", 0.25, 0.2, 0.3, 0.001),
    compared("reweighted", 0.2, 0.1, 0.3, 0.002),
    compared("cls", 0.25, 0.2, 0.3, 0.001),
]
PROBE["test"] |= {"patients": 40, "what": "combinations not in training"}
FIDELITY = arms_content()
for _arm, _distance in (("medi", 2.0), ("cls", 8.0)):
    _figures = FIDELITY["arms"][_arm]["frechet_distance"]
    for _name, _value in (("mean", _distance), ("unseen", _distance + 1), ("seen", _distance - 1), ("floor", 1.0)):
        _figures[_name] = figure(_value, num_combinations=32)
    FIDELITY["arms"][_arm]["memorization"] = memory(figure(0.001, 0.0, 0.003, 1000))
FIDELITY["real"]["memorization"] = memory(figure(0.002, 0.0, 0.005, 1000))


def verdict(fidelity, probe):
    return metadata.verdict(typed(ArmsMetrics, fidelity), typed(ProbeResults, probe))


def spoiled(content, *path, value):
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def test_a_gain_over_both_is_help():
    found = verdict(FIDELITY, PROBE)
    assert found[0].level == "ok" and found[0].text.startswith("Metadata help")
    assert "+0.250" in found[0].text and "p = 0.001" in found[0].text
    texts = " ".join(one.text for one in found)
    assert "MeDi is better than the best baseline without generated images, Group-reweighted" in texts
    assert "MeDi 2.00, Class-only 8.00" in texts and "MeDi 0.40 (a · x, 100 images)" in texts
    assert not [one for one in found if one.level in ("warning", "error")]


def test_a_generator_of_noise_is_named_before_any_effect():
    fidelity = copy.deepcopy(FIDELITY)
    fidelity["real"]["floor"]["precision"] = figure(0.8, num_combinations=32)
    fidelity["arms"]["cls"]["precision"]["mean"] = figure(0.4, num_combinations=32)
    assert verdict(fidelity, PROBE)[0].text.startswith("Metadata help")
    fidelity["arms"]["medi"]["precision"]["mean"] = figure(0.01, num_combinations=32)
    found = verdict(fidelity, PROBE)
    assert (found[0].level, found[0].name) == ("error", "not_trained")
    assert found[0].text.startswith("A generator is not trained: only 1.0% of MeDi images lie among real images")
    assert found[1].text.startswith("Metadata help")
    fidelity["arms"]["cls"]["precision"]["mean"] = figure(0.02, num_combinations=32)
    assert verdict(fidelity, PROBE)[0].text.startswith("The generator is not trained: only")
    # where real images of other patients are no better, precision says nothing
    fidelity["real"]["floor"]["precision"] = figure(0.05, num_combinations=32)
    assert verdict(fidelity, PROBE)[0].text.startswith("Metadata help")


def test_warnings_of_the_runs_are_told_once_and_errors_come_first():
    warning = {"level": "warning", "text": "Another cohort.", "figures": {}, "name": ""}
    error = {**warning, "level": "error", "text": "No image was added."}
    found = verdict({**FIDELITY, "warnings": [warning]}, {**PROBE, "warnings": [error, warning]})
    assert [finding.text for finding in found].count("Another cohort.") == 1
    assert found[0].text == "No image was added." and found[1].text.startswith("Metadata help")


@pytest.mark.parametrize(
    ("p", "equivalence", "answer", "words"),
    [
        (0.06, 0.9, "Not decided", "does not differ significantly from"),
        (None, None, "Not decided", "does not differ significantly from"),
        (0.3, 0.01, "No effect", "is equivalent to"),
        (0.001, 0.01, "No effect", "is equivalent to"),  # certain, and within the margin
    ],
)
def test_what_is_not_certain_is_not_decided_and_what_is_too_small_is_no_effect(p, equivalence, answer, words):
    rows = [compared(name, 0.02, 0.01, 0.03, p, equivalence) for name in ("real", "cls", "reweighted")]
    found = verdict(FIDELITY, spoiled(PROBE, "comparisons", value=rows))
    assert found[0].level == "note" and found[0].text.startswith(answer)
    assert any(words in one.text for one in found)


def test_metadata_help_only_if_the_best_baseline_is_beaten():
    rows = [*PROBE["comparisons"][::2], compared("reweighted", 0.02, -0.1, 0.1, 0.5)]
    found = verdict(FIDELITY, spoiled(PROBE, "comparisons", value=rows))
    assert found[0].level == "warning"
    assert found[0].text.startswith("Mixed result: MeDi is more accurate than Real and")
    assert "but not shown to be more accurate than Group-reweighted." in found[0].text


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalence", "words"),
    [
        (0.2, 0.001, 0.9, "Recoloring real images to the stain of other centers is not enough."),
        (0.01, 0.7, 0.02, "Recoloring real images to the stain of other centers is enough."),
        (-0.2, 0.001, 0.9, "Recoloring real images to the stain of other centers is enough."),
        (0.03, 0.5, 0.4, "It is not decided whether recoloring real images to the stain of other centers is enough."),
    ],
)
def test_the_verdict_says_whether_recoloring_is_enough(difference, p, p_equivalence, words):
    row = compared("stain_transfer", difference, difference - 0.1, difference + 0.1, p)
    rows = [*PROBE["comparisons"][::2], {**row, "p_equivalence": p_equivalence}]
    probe = spoiled(PROBE, "arms", "stain_transfer", value=PROBE["arms"]["real"])
    found = [finding.text for finding in verdict(FIDELITY, spoiled(probe, "comparisons", value=rows))]
    assert sum(text.startswith(words) for text in found) == 1
    assert not any("ecoloring" in finding.text for finding in verdict(FIDELITY, PROBE))


def test_the_control_with_permuted_metadata_is_compared_where_there_is_one():
    rows = [*PROBE["comparisons"][::2], compared("medi_permuted", 0.2, 0.1, 0.3, 0.001)]
    probe = spoiled(PROBE, "arms", "medi_permuted", value=PROBE["arms"]["cls"])
    found = verdict(FIDELITY, spoiled(probe, "comparisons", value=rows))
    assert any(text.text.startswith("MeDi is better than the control, MeDi, permuted metadata.") for text in found)


@pytest.mark.parametrize(
    ("difference", "p", "words"),
    [
        (0.2, 0.001, "Consistent with metadata helping (one training): images generated with metadata improve"),
        (-0.2, 0.001, "Consistent with harm (one training): generated images reduce accuracy"),
        (0.2, 0.5, "Not decided (one training): the effect"),
    ],
)
def test_one_training_is_never_more_than_consistent_with_an_effect(difference, p, words):
    rows = [compared(name, difference, difference - 0.1, difference + 0.1, p) for name in ("real", "cls", "reweighted")]
    probe = spoiled(PROBE, "arms", "medi", "balanced_accuracy", "trainings", value=[0.7])
    assert verdict(FIDELITY, spoiled(probe, "comparisons", value=rows))[0].text.startswith(words)


@pytest.mark.parametrize(
    ("p_real", "p_cls", "level", "words"),
    [
        (0.67, 0.3, "note", "no difference is significant"),
        (0.67, 0.01, "note", "only the difference from Class-only is significant"),
        (0.01, 0.01, "ok", "the differences are significant"),
    ],
)
def test_a_better_worst_group_is_no_gain_until_it_is_certain(p_real, p_cls, level, words):
    rows = [
        of_worst_group(compared("real", 0.3, 0.1, 0.5, p_real)),
        of_worst_group(compared("cls", 0.3, 0.1, 0.5, p_cls)),
    ]
    found = verdict(FIDELITY, spoiled(PROBE, "comparisons", value=[*PROBE["comparisons"], *rows]))
    one = next(one for one in found if one.text.startswith("Worst-group accuracy"))
    assert one.level == level and words in one.text


def test_what_leaves_no_p_value_is_told():
    assert not any("no effect can be claimed" in one.text for one in verdict(FIDELITY, PROBE))
    rows = [compared("real", 0.2, None, None, None, None)]
    found = verdict(FIDELITY, spoiled(PROBE, "comparisons", value=rows))
    assert any("differences have no p value, so no effect can be claimed" in one.text for one in found)


def test_too_few_combinations_to_draw_anew_are_told():
    found = verdict(FIDELITY, spoiled(PROBE, "test", "unit", value="patient"))
    assert any(one.level == "warning" and "not for other combinations" in one.text for one in found)


def test_a_verdict_names_arms_as_the_tables_do_and_signs_differences():
    probe = spoiled(PROBE, "arms", "stain_normalized", value=arm(0.7, 0.2))
    probe["comparisons"].append(compared("stain_normalized", -0.048, -0.1, 0.02, 0.14))
    # the best arm, but one with generated images
    probe["arms"]["medi_filtered"] = arm(0.9, 0.4)
    probe["comparisons"].append(compared("medi_filtered", -0.2, -0.3, -0.1, 0.01))
    texts = " ".join(one.text for one in verdict(FIDELITY, probe))
    assert (
        "MeDi does not differ significantly from the best baseline without generated images, Stain-normalized." in texts
    )
    assert (
        "MeDi \u2212 Stain-normalized: \u22120.048 balanced accuracy (95% CI \u22120.100 to +0.020, p = 0.14)" in texts
    )


def test_a_loss_is_harm_and_a_gain_over_one_is_mixed():
    rows = [compared("real", -0.2, -0.3, -0.1, 0.001), compared("cls", 0.2, 0.1, 0.3, 0.001)]
    assert verdict(FIDELITY, spoiled(PROBE, "comparisons", value=rows))[0].text.startswith(
        "Generated images do harm: generated images reduce accuracy"
    )
    rows = [compared("real", 0.0, -0.1, 0.1, 0.9), compared("cls", 0.2, 0.1, 0.3, 0.001)]
    found = verdict(FIDELITY, spoiled(PROBE, "comparisons", value=rows))
    assert (
        found[0].level == "warning" and "than Class-only, but not shown to be more accurate than Real." in found[0].text
    )


def test_copies_differing_settings_and_few_patients_are_told():
    copying = memory(figure(0.2, 0.15, 0.25, 1000))
    fidelity = spoiled(FIDELITY, "arms", "medi", "memorization", value=copying)
    fidelity["settings_that_differ"] = {
        "num_steps": {"cls": 20, "medi": 50},
        "label_guidance": {"cls": 1.0, "medi": 2.25},
    }
    probe = spoiled(PROBE, "test", "patients", value=4)
    probe["arms"]["real"]["training"]["converged"] = 0.5
    probe["arms"]["cls"]["training"]["c"] = 10.0
    found = {one.text: one.level for one in verdict(fidelity, probe)}
    for words, level in (
        ("MeDi reproduces training images: 20.0%", "error"),
        ("num_steps (Class-only: 20, MeDi: 50)", "warning"),
        ("its own guidance: label_guidance (Class-only: 1.0, MeDi: 2.25)", "note"),
        ("only 4 patients", "warning"),
        ("did not converge: Real", "warning"),
        ("edge of its range for Class-only", "warning"),
    ):
        assert [one for text, one in found.items() if words in text] == [level], words


@pytest.mark.parametrize("c", [0.001, 0.01, 0.1])
def test_an_edge_is_recognized_although_means_are_rounded(c):
    probe = spoiled(PROBE, "settings", "c_values", value=[c, 10 * c])
    probe["arms"]["cls"]["training"]["c"] = sum([c] * 12) / 12
    assert any("edge of its range for Class-only" in finding.text for finding in verdict(FIDELITY, probe))


def test_undefined_figures_are_said_to_be_so():
    probe = spoiled(PROBE, "arms", "cls", "worst_group_accuracy", "value", value=None)
    probe["shortcut"]["center_probe_accuracy"]["value"] = None
    probe["shortcut"]["correlation"]["arms"] = {}
    fidelity = spoiled(FIDELITY, "arms", "medi", "frechet_distance", "mean", "value", value=None)
    texts = [one.text for one in verdict(fidelity, probe)]
    assert any("Worst-group accuracy is undefined" in text for text in texts)
    assert any("Fréchet distance to real images: MeDi –" in text for text in texts)
    assert not any("nan" in text.lower() for text in texts)


def test_a_sweep_of_real_images_alone_says_why_the_others_are_not_there():
    content = probe_content(("real", "reweighted", "cls", "medi"), left_out=("cls", "medi"))
    probe = {**PROBE, "shortcut": content["shortcut"]}
    (text,) = [one.text for one in verdict(FIDELITY, probe) if one.text.startswith("Mean change")]
    assert text == (
        "Mean change in balanced accuracy as center and class become correlated in training: Real −21.4%, "
        "Group-reweighted −21.4%. Not measured for Class-only and MeDi: their generators were trained on images "
        "that the correlated training sets withhold, or have no record of training."
    )
    (text,) = [one.text for one in verdict(FIDELITY, PROBE) if one.text.startswith("Mean change")]
    assert text.endswith("MeDi −21.4%.")


def test_trainings_have_a_range_and_a_single_one_is_a_limit():
    def training(seed, distance):
        return TrainingSummary(seed, {"medi": TrainedArm(0.7, distance, None, None, {})}, "report.html")

    (alone,) = metadata.trainings_findings([training(0, 5.0)])
    assert alone.level == "note" and "--num_trainings" in alone.text
    (several,) = metadata.trainings_findings([training(0, 4.0), training(1, 6.0), training(2, None)])
    assert "over 3 trainings" in several.text and "MeDi 5.00 (4.00 to 6.00)" in several.text
    assert metadata.trainings_findings([training(0, None), training(1, None)]) == []
