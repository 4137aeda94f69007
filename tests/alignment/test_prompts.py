import pandas as pd
import pytest
from PIL import Image
from small_captions import ROWS, write_captioned

from medi_monai.alignment.prompts import caption_words, generated_cohort, named_prompts, naming_cohort, prompt_plan
from medi_monai.cohort import Cohort
from medi_monai.utils.errors import InputError

TEMPLATES = {
    "templates": ["brain of a {age} {sex}", "brain of a {age} patient"],
    "words": {"sex": {"female": "woman", "male": "man"}, "age": {"young": "young", "old": "old"}},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"))


def plan_of(prompts, num_images, cohort, templates=TEMPLATES, attribute="sex"):
    return prompt_plan(prompts, num_images, lambda: cohort, templates, attribute)


def words_of(attribute, templates=TEMPLATES, **values):
    table = pd.DataFrame({name: list(own) for name, own in values.items()}, dtype="str")
    return caption_words(Cohort(table, "nowhere"), templates, attribute)


def counts(plan):
    return dict(plan[["caption", "count"]].itertuples(index=False, name=None))


def test_neutral_prompts_leave_the_attribute_open(cohort):
    # 8 of 12 rows of known shares: age as it occurs, and no sex
    plan = plan_of("neutral", 16, cohort)
    assert counts(plan) == {"brain of a young patient": 10, "brain of an old patient": 6}
    with pytest.raises(InputError, match="all 2 templates name"):
        plan_of("neutral", 16, cohort, attribute="sex|age")
    with pytest.raises(InputError, match="templates"):
        plan_of("neutral", 16, cohort, templates=None)


def test_named_prompts_have_every_value_alike(cohort):
    plan = plan_of("named", 8, cohort)
    assert counts(plan) == {"brain of a young woman": 4, "brain of a young man": 2, "brain of an old man": 2}
    # without templates, a value names itself
    plain = plan_of("named", 6, captions_of("male", "female", "other"), None)
    assert counts(plain) == {"female brain": 3, "male brain": 3}
    assert plan_of("named", 3, cohort)["count"].sum() == 2
    with pytest.raises(InputError, match="num_images = 1: each of 2 subgroups needs an image"):
        plan_of("named", 1, cohort)
    with pytest.raises(InputError, match="no caption in training names 'female'"):
        plan_of("named", 8, captions_of("male", "female", "other", only="male"), None)


def test_prompts_that_name_several_attributes_name_each_combination(cohort):
    table = cohort.table.assign(caption=cohort.table["caption"].str.replace("patient", "woman"))
    whole = Cohort(table, cohort.root)
    plan = plan_of("named", 8, whole, attribute="sex|age")
    assert counts(plan) == {
        "brain of an old woman": 2,
        "brain of a young woman": 2,
        "brain of an old man": 2,
        "brain of a young man": 2,
    }
    with pytest.raises(InputError, match=r"names 'female' and 'old' \(by \['woman', 'female'\] and \['old'\]\)"):
        plan_of("named", 8, cohort, attribute="sex|age")


def captions_of(*words, only=None):
    rows = [(f"{word} brain", word if word != "other" else "male") for word in words if only in (None, word)]
    rows += [("a brain", "female")]
    return Cohort(pd.DataFrame(rows, columns=["caption", "sex"], dtype="str"), "nowhere")


def test_few_named_prompts_are_spread_over_the_captions():
    table = pd.DataFrame({"caption": [f"man {number}" for number in range(9)] + ["woman"], "sex": "male"}, dtype="str")
    plan = named_prompts(Cohort(table, "nowhere"), {"sex": {"male": ("man",), "female": ("woman",)}}, 6)
    assert counts(plan) == {"man 2": 1, "man 5": 1, "man 8": 1, "woman": 3}


def test_prompts_of_a_file_and_of_a_list_need_no_cohort(tmp_path):
    def refused():
        raise AssertionError("the cohort was asked for")

    (tmp_path / "prompts.txt").write_text("# two\nbrain\nanother brain\n")
    for prompts in (str(tmp_path / "prompts.txt"), ["brain", "another brain"]):
        assert counts(prompt_plan(prompts, 5, refused, None, "sex")) == {"brain": 3, "another brain": 2}
    for prompts, message in (([], "contains no prompt"), (str(tmp_path / "gone.txt"), "prompt file not found")):
        with pytest.raises(InputError, match=message):
            prompt_plan(prompts, 5, refused, None, "sex")


def test_the_anchor_sees_captions_that_name_the_attribute(cohort, capsys):
    assert set(naming_cohort(cohort, TEMPLATES, "sex").table["caption"]) == {row[0] for row in ROWS[:3]}
    assert len(naming_cohort(cohort, TEMPLATES, "sex|age")) == len(naming_cohort(cohort, TEMPLATES, "sex")) == 12
    assert capsys.readouterr().out == ""
    silent = Cohort(cohort.table[12:].reset_index(drop=True), cohort.root)
    assert naming_cohort(silent, TEMPLATES, "sex") is None
    assert "no caption in training names 'sex'" in capsys.readouterr().out


def test_sampled_images_are_labeled_by_what_was_asked_for(cohort, tmp_path):
    captions = ["brain of an old woman", "brain of a young man", "brain of an old patient"]
    for number in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    manifest = pd.DataFrame({"image": [f"{number}.png" for number in range(3)], "caption": captions})
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    labeled = generated_cohort(tmp_path, cohort, TEMPLATES, "sex")
    assert labeled.table[["image", "sex"]].values.tolist() == [["0.png", "female"], ["1.png", "male"]]
    manifest.tail(1).to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(InputError, match="--prompts named"):
        generated_cohort(tmp_path, cohort, TEMPLATES, "sex")


def test_of_several_attributes_all_have_to_be_named(cohort, tmp_path):
    captions = ["brain of an old woman", "brain of a woman"]
    for number in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
    manifest = pd.DataFrame({"image": ["0.png", "1.png"], "caption": captions})
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    labeled = generated_cohort(tmp_path, cohort, TEMPLATES, "sex|age")
    assert labeled.table[["image", "sex", "age"]].values.tolist() == [["0.png", "female", "old"]]


def test_words_that_name_values_in_captions_that_are_read(cohort):
    words = {"words": {"sex": {"male": ["man", "gentleman"], "female": "woman"}}}
    named = words_of("sex|age", words, sex=["male", "female", "", "other"], age=["old", "old", "young", ""])
    assert named == {
        "sex": {"male": ("man", "gentleman", "male"), "female": ("woman", "female"), "other": ("other",)},
        "age": {"old": ("old",), "young": ("young",)},
    }
    assert words_of("sex", None, sex=["male", "female"]) == {"sex": {"female": ("female",), "male": ("male",)}}
    assert counts(plan_of("named", 4, cohort, words)) == counts(plan_of("named", 4, cohort))
    # without words, no caption names the values themselves
    with pytest.raises(InputError, match="names 'female'"):
        plan_of("named", 4, cohort, None)
    with pytest.raises(InputError, match="neutral prompts need templates"):
        plan_of("neutral", 4, cohort, words)
    with pytest.raises(InputError, match="race"):
        caption_words(cohort, TEMPLATES, "race")


def test_own_prompts_that_name_the_attribute_are_no_neutral_ones(cohort, capsys):
    prompts = ["brain of a man", "brain", "old brain", "WOMAN'S brain"]
    plan = prompt_plan(prompts, 8, lambda: cohort, TEMPLATES, "sex", neutral=True)
    assert plan["caption"].tolist() == ["brain", "old brain"]
    assert "2 of 4 are dropped because they name sex 'male': 'brain of a man'" in capsys.readouterr().out
    with pytest.raises(InputError, match="all 1 prompts name sex.*neutral prompts, which do not name it, are needed"):
        prompt_plan(prompts[:1], 8, lambda: cohort, TEMPLATES, "sex", neutral=True)
    assert len(prompt_plan(prompts, 8, lambda: cohort, TEMPLATES, "sex")) == 4


def test_without_an_attribute_prompts_are_given(cohort):
    def refused():
        raise AssertionError("the cohort was asked for")

    assert counts(prompt_plan(["brain"], 3, refused, None, None)) == {"brain": 3}
    for more in ({"prompts": "named"}, {"prompts": ["brain"], "neutral": True}):
        with pytest.raises(InputError, match="name a column of the cohort with --attribute"):
            prompt_plan(num_images=3, training=refused, templates=None, attribute=None, **more)
