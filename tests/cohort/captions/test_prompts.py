import os

import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort import expand_plan
from medi_monai.cohort.captions import CaptionTemplates, make_prompts, neutral_prompts, read_prompts
from medi_monai.utils.errors import InputError

WORDS = {"sex": {"male": ("man", "male"), "female": ("woman", "female")}}


def as_list(plan):
    return list(plan[["caption", "count"]].itertuples(index=False, name=None))


def test_a_text_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# MR\r\n\r\nMR slice  of a brain\r\n  # more\nCT slice\nMR slice of a brain\n".encode())
    assert as_list(read_prompts(path)) == [("MR slice of a brain", 2), ("CT slice", 1)]
    assert as_list(read_prompts(str(path), count=3)) == [("MR slice of a brain", 6), ("CT slice", 3)]


def test_a_table(tmp_path, capsys):
    path = tmp_path / "prompts.csv"
    path.write_text('caption,count\n"a brain, MR",2\na,1\n"a brain, MR",3\n')
    assert as_list(read_prompts(path, num_images=6)) == [("a brain, MR", 5), ("a", 1)] and not capsys.readouterr().out
    assert as_list(read_prompts(path, num_images=100)) == [("a brain, MR", 5), ("a", 1)]
    assert "the number of images: 6, not 100" in capsys.readouterr().out
    path.write_text("caption\nx\ny\nz\n")
    assert as_list(read_prompts(path, num_images=8)) == [("x", 3), ("y", 3), ("z", 2)]
    assert expand_plan(read_prompts(path, 2))["number"].tolist() == [0, 1, 0, 1, 0, 1]


def test_a_list():
    plan = read_prompts(["a", " b "], num_images=3)
    assert as_list(plan) == [("a", 2), ("b", 1)]


@pytest.mark.parametrize("content", ["", "\n \n", "# only\n#comments\n"])
def test_a_file_without_a_prompt_is_an_error(tmp_path, content):
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(InputError, match="contains no prompt"):
        read_prompts(tmp_path / "p.txt")


def test_broken_prompts_are_errors(tmp_path):
    for text, message in (
        ("caption,count\nx,0\n", "count '0'"),
        ("caption,count\nx,1.5\n", "count '1.5'"),
        ("captoin\nx\n", "did you mean 'captoin'"),
        ("caption,count\n ,2\n", "prompt 1"),
        ("caption\n", "no row"),
    ):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / "p.csv")
    (tmp_path / "p.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_prompts(tmp_path / "p.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    for arguments, message in (
        ((tmp_path / "gone.txt",), "prompt file not found"),
        ((tmp_path / "pipe.txt",), "pipe.txt is a pipe and not a regular file"),
        (("/dev/zero",), "/dev/zero is a device and not a regular file"),
        ((["a", 3],), "prompt 2 is 3"),
        (([],), "contains no prompt"),
        ((["a"], 0), "count = 0"),
        ((["a", "b"], 1, 1), "2 prompts"),
        (("neutral",), "set --prompts"),
    ):
        with pytest.raises(InputError, match=message):
            read_prompts(*arguments)


def training_table(count=400):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(count)],
            "sex": rng.choice(["male", "female"], count, p=[0.8, 0.2]),
            "grade": rng.choice(["II", "III", ""], count, p=[0.5, 0.4, 0.1]),
        }
    )


TEMPLATES = CaptionTemplates(
    ["slice of a {sex}", "slice of a {sex} with a grade {grade} glioma", "slice with a grade {grade} glioma"],
    {"sex": {"male": "man", "female": "woman"}},
)


def test_neutral_prompts_have_the_shares_of_the_training_table():
    table = training_table()
    counts = table["grade"][table["grade"] != ""].value_counts()
    plan = make_prompts(table, TEMPLATES, ["sex"])
    assert as_list(plan) == [(f"slice with a grade {grade} glioma", count) for grade, count in counts.items()]
    plan = read_prompts("neutral", num_images=501, table=table, templates=TEMPLATES, attributes=["sex"])
    assert plan["count"].sum() == 501
    shares = plan["count"].to_numpy() / 501
    np.testing.assert_allclose(shares, counts.to_numpy() / counts.sum(), atol=1 / 501)
    assert len(make_prompts(table, TEMPLATES, ["sex"], num_prompts=1)) == 1
    mixed = table.sample(frac=1, random_state=0)
    assert as_list(make_prompts(mixed, TEMPLATES, ["sex"], 501)) == as_list(plan)


def test_templates_that_name_the_attribute_are_an_error():
    with pytest.raises(InputError, match="all 1 templates name sex"):
        make_prompts(training_table(), CaptionTemplates(["a {sex}"]), ["sex"])
    # by a word, and not by its column
    with pytest.raises(InputError, match="all 1 prompts name sex"):
        make_prompts(training_table(), CaptionTemplates(["a man"], TEMPLATES.words), ["sex"])
    with pytest.raises(InputError, match="did you mean 'sex'"):
        make_prompts(training_table(), TEMPLATES, ["sx"])
    with pytest.raises(InputError, match="no neutral prompt"):
        make_prompts(training_table().assign(grade=""), TEMPLATES, ["sex"])


def test_prompts_that_name_a_subgroup_are_left_out(capsys):
    plan = read_prompts(["a man", "a brain", "a woman", "a person, man or woman"])
    left = neutral_prompts(plan, WORDS)
    assert left["caption"].tolist() == ["a brain", "a person, man or woman"]
    assert left.index.tolist() == [0, 1]
    assert "2 of 4 are dropped" in capsys.readouterr().out
    with pytest.raises(InputError, match="all 2 prompts name sex.*sex 'male'"):
        neutral_prompts(read_prompts(["a man", "a woman"]), WORDS)
    pd.testing.assert_frame_equal(neutral_prompts(plan, {}), plan)
