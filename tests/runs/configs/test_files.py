import pytest
from monai.bundle import ConfigParser

from medi_monai.runs.configs.files import as_files, expanded, is_syntax, kept, read_config_file
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import Verbatim

TEXT, PATH, COMPONENT = Verbatim(), Verbatim(path=True), Verbatim(path=True, component=True)


def through_monai(value):
    """What MONAI's own parser makes of a value."""
    return ConfigParser({"given": value, "label": "tumor"}).get_parsed_content("given")


@pytest.mark.parametrize(
    "value",
    [
        "#N/A",
        ["#N/A", "@site", "$amount", "%done", "a::b"],
        "FLAIR slice #{slice} of @{site}",
        {"image": "{image}", "patient": "Case #"},
        {"center": {"rename": {"#1": "Köln $", "a\\#b": 'it\'s "#" quoted'}}},
        "import #",
        "plain",
        ["a", "b"],
    ],
)
def test_text_comes_through_the_parser_as_it_was_written(value):
    assert through_monai(kept("name", value, TEXT, {"label"}, own=False)) == value


def test_without_it_the_parser_alters_text():
    assert through_monai(["#N/A"]) == ["::N/A"]


@pytest.mark.parametrize("value", ["$None", "@label", "$@label + '_x'"])
def test_what_means_something_to_monai_is_left_to_it(value):
    assert is_syntax(value, {"label"}, own=False)
    assert kept("name", value, TEXT, {"label"}, own=False) == value
    assert through_monai(value) == {"$None": None, "@label": "tumor", "$@label + '_x'": "tumor_x"}[value]


@pytest.mark.parametrize("value", ["@site", "$amount", "@label is @home", "%x", "$torch.zeros(1)"])
def test_what_a_user_writes_is_text_otherwise(value):
    assert not is_syntax(value, {"label"}, own=False)
    assert is_syntax(value, {"label"}, own=True) == (value[0] in "$@%")


def test_an_environment_variable_begins_a_path_as_in_a_shell(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me #2")
    assert through_monai(kept("output_dir", "$SCRATCH/data", PATH, set(), False)) == "/scratch/me #2/data"
    assert through_monai(kept("output_dir", "${SCRATCH}", PATH, set(), False)) == "/scratch/me #2"
    assert through_monai(kept("arms", {"medi": "$SCRATCH/a"}, PATH, set(), False)) == {"medi": "/scratch/me #2/a"}
    assert through_monai(kept("output_dir", "data/$SCRATCH", PATH, set(), False)) == "data/$SCRATCH"
    with pytest.raises(InputError, match=r"output_dir = '\$NOWHERE/x': the environment variable \$NOWHERE is not set"):
        kept("output_dir", "$NOWHERE/x", PATH, set(), False)
    monkeypatch.setenv("HOME", "/home/me")
    assert through_monai(kept("output_dir", "~/#1", PATH, set(), False)) == "/home/me/#1"
    assert through_monai(kept("output_dir", "~me", PATH, set(), False)) == "~me"
    with pytest.raises(InputError, match="write ./ before it"):
        kept("output_dir", "$(pwd)/x", PATH, set(), False)


def test_a_component_of_monai_is_left_to_it():
    spec = {"_target_": "builtins.dict", "a": "@label"}
    assert through_monai(kept("encoder", spec, COMPONENT, {"label"}, False)) == {"a": "tumor"}
    assert (
        through_monai(kept("encoder", {"name": "x", "weights": "w #1"}, COMPONENT, set(), False))["weights"] == "w #1"
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, []),
        ("a.json", ["a.json"]),
        ("[a.json, b.yaml]", ["a.json", "b.yaml"]),
        ("['a.json','b.yaml']", ["a.json", "b.yaml"]),
        ("a.json,b.yaml", ["a.json", "b.yaml"]),
        (("a.json", "b.yaml"), ["a.json", "b.yaml"]),
        (["a.json"], ["a.json"]),
    ],
)
def test_config_files_come_in_every_form_that_people_type(given, names):
    assert [str(file) for file in as_files(given)] == names


def test_a_file_whose_name_has_a_comma_is_one_file(tmp_path):
    file = tmp_path / "a,b.json"
    file.write_text("{}")
    assert as_files(str(file)) == [file]


#: nine lines that hold more values than memory does
GROWING = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
GROWING += [f"a{number}: &a{number} [{', '.join(9 * [f'*a{number - 1}'])}]" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"a": 1,}', "line 1, column .*: invalid JSON: .*comma before a closing bracket"),
        ("a.json", b"", "is empty"),
        ("a.json", b"[1]", "is not a mapping"),
        ("a.json", b'{"a": 1, "a": 2}', "a.json: duplicate key 'a'"),
        ("a.yaml", b"a: 1\na: 2", "a.yaml: duplicate key 'a'"),
        ("a.yaml", b"a: {no: 1, NO: 2}", "a.yaml: duplicate key False"),
        ("a.yaml", b"a: [1", "line .*: invalid YAML"),
        ("a.yaml", b"a:\n\t- 1", "indent with spaces"),
        ("a.yaml", b"# nothing", "is empty"),
        ("a.yaml", b"- a", "is not a mapping"),
        ("a.yaml", b"1: a", "is not a mapping"),
        ("a.yaml", "a: Köln".encode("latin-1"), r"is not UTF-8 \(byte 4\): save it as UTF-8"),
        ("a.yaml", b"a: &a [*a]", "an alias refers to a value that contains it"),
        ("a.yaml", "\n".join(GROWING).encode(), "its aliases expand to 490,329,055 values; a config has at most"),
        ("a.txt", b"a: 1", "has to end with .json, .yaml, .yml"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_line_and_the_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_config_file(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match="there is no config file gone.yaml .current folder: "):
        read_config_file(as_files("gone.yaml")[0])


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_config_file(tmp_path / "a.json") == read_config_file(tmp_path / "a.yaml") == {"a": 1}


def test_a_number_with_an_exponent_is_a_number_in_yaml_too(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: [2.5E2, -1e3]\nc: 1e\nd: e3\n")
    assert read_config_file(tmp_path / "a.yaml") == {"a": 0.001, "b": [250.0, -1000.0], "c": "1e", "d": "e3"}


def test_a_home_that_is_not_known_is_one_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/k")
    assert expanded("output_dir", "~/x") == "/home/k/x" and expanded("output_dir", "~") == "/home/k"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(InputError, match=r"output_dir = '~/x': this user has no home folder; set \$HOME"):
        expanded("output_dir", "~/x")
    # as of a user that there is not
    assert expanded("output_dir", "~nobody1/x") == "~nobody1/x"
