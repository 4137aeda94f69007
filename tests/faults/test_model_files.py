"""Damage to every kind of file of a model: one line that names the file, never a traceback and never other images."""

import json
import random
import shutil

import pytest
import torch
from ignite.engine import Engine

from medi_monai.engines.handlers import CHECKPOINT_INDEX, TrainingCheckpoint
from medi_monai.engines.model_dir import load_network, load_schema, save_model
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.networks.classifier import SubgroupClassifier, load_classifier, save_classifier
from medi_monai.runs.settings import GROUPS, load_train_config
from medi_monai.schema import CategoricalColumn, ContinuousColumn, MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, write_json
from medi_monai.utils.records import sealed
from medi_monai.utils.settings import is_recorded

SCHEMA = MetadataSchema(
    CategoricalColumn("project_id", ("A", "B")),
    (CategoricalColumn("center", ("East", "West")), ContinuousColumn("age", 20.0, 90.0)),
)
TRAIN_GROUPS = ("cohort", "conditions", "network", "training")


def network(schema=SCHEMA):
    torch.manual_seed(0)
    return MetadataDiffusionUNet(
        schema,
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        channels=(8, 16),
        attention_levels=(False, True),
        num_res_blocks=1,
        num_head_channels=8,
        norm_num_groups=4,
    )


def train_config():
    return {
        name: field.get_default(call_default_factory=True)
        for group in TRAIN_GROUPS
        for name, field in GROUPS[group].model_fields.items()
        if is_recorded(field)
    }


def save_diffusion(folder):
    save_model(folder, network().state_dict(), {**train_config(), "cohort_dir": "/cohort", "schema": SCHEMA.digest})
    SCHEMA.save(folder / "schema.json")


def load_diffusion(folder):
    config = load_train_config(folder, *TRAIN_GROUPS)
    schema = load_schema(folder)
    return config, schema.digest, load_network(network(schema), folder / "model.pt").state_dict()


def save_guide(folder):
    classifier = SubgroupClassifier({"sex": ["female", "male"]}, image_size=16, width=8)
    classifier.held_out = {"sex": {"values": ["female", "male"], "confusion": [[3, 1], [0, 4]]}}
    save_classifier(folder, classifier, {"seed": 0}, {"cohort": "0" * 64})


def load_guide(folder):
    classifier = load_classifier(folder)
    return classifier.held_out, classifier.attributes, classifier.state_dict()


def checkpoint(folder):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 5)
    engine = Engine(lambda *_: None)
    return TrainingCheckpoint(folder, {"network": layer}, {"seed": 0}, keep=3), engine, layer


def save_checkpoints(folder):
    saved, engine, _ = checkpoint(folder)
    engine.state.iteration = 7
    saved.save(engine)


def load_checkpoints(folder):
    resumed, engine, layer = checkpoint(folder)
    with torch.no_grad():
        layer.weight.zero_()
    return resumed.resume(engine), layer.state_dict()


def save_text(folder):
    pytest.importorskip("transformers")
    from medi_monai.networks.text import CaptionSchema, load_text_encoder, make_tokenizer, save_clip, small_clip

    tokenizer = make_tokenizer(["brain of a woman", "brain of a man"], 16)
    torch.manual_seed(0)
    save_clip(small_clip(tokenizer, 16, hidden_size=16, num_layers=1, num_heads=2), tokenizer, folder / "clip")
    CaptionSchema(load_text_encoder(folder / "clip")).save(folder / "schema.json")


def load_text(folder):
    from medi_monai.networks.text import CaptionSchema, ClipModel

    schema = CaptionSchema.load(folder / "schema.json")
    return schema.digest, schema.encode({"caption": ["brain of a man"]}), ClipModel(folder / "clip").state_dict()


KINDS = {
    "diffusion": (save_diffusion, load_diffusion, ["model.pt"], ["model.json", "schema.json"]),
    "classifier": (save_guide, load_guide, ["classifier.pt"], ["classifier.json"]),
    "checkpoints": (save_checkpoints, load_checkpoints, ["checkpoint_00000007.pt"], [CHECKPOINT_INDEX]),
    "text": (
        save_text,
        load_text,
        ["clip/model.safetensors", "clip/tokenizer.json", "clip/config.json"],
        ["schema.json", "clip/medi_files.json"],
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {}

    def folder_of(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            KINDS[kind][0](folders[kind])
        return folders[kind]

    return folder_of


@pytest.fixture
def copy(saved, tmp_path):
    def copied(kind):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved(kind), folder)
        return folder

    return copied


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_refused(load, folder, what):
    with pytest.raises(InputError) as caught:
        load(folder)
        pytest.fail(f"{what} was accepted")
    assert "\n" not in str(caught.value), what


def damaged(content, seed):
    """Bytes with one kind of damage each."""
    draw = random.Random(seed)
    yield "empty", b""
    for fraction in (0.1, 0.5, 0.9, 0.999):
        yield f"truncated to {fraction}", content[: int(len(content) * fraction)]
    for _ in range(12):
        at = draw.randrange(len(content))
        yield f"bit flipped at {at}", content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
    at = draw.randrange(max(1, len(content) - 64))
    yield f"0xFF at {at}", content[:at] + b"\xff" * 64 + content[at + 64 :]
    yield "appended", content + b"\0"
    yield "other", b"not a file of a model\n" * 20


WEIGHTS = [(kind, name) for kind, (_, _, weights, _) in KINDS.items() for name in weights]
RECORDS = [(kind, name) for kind, (_, _, _, records) in KINDS.items() for name in records]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_loaded(kind, saved):
    load = KINDS[kind][1]
    assert same(load(saved(kind)), load(saved(kind)))


@pytest.mark.parametrize(("kind", "name"), WEIGHTS)
def test_any_damage_to_weights_is_refused(kind, name, copy):
    folder, load = copy(kind), KINDS[kind][1]
    content = (folder / name).read_bytes()
    for what, wrong in damaged(content, name):
        (folder / name).write_bytes(wrong)
        assert_refused(load, folder, f"{name}: {what}")
    (folder / name).unlink()
    if kind != "checkpoints":
        assert_refused(load, folder, f"{name}: missing")
        (folder / name).mkdir()
        assert_refused(load, folder, f"{name}: a folder")


@pytest.mark.parametrize("name", ["model.pt", "classifier.pt"])
def test_without_a_digest_the_checksums_within_the_file_are_compared(name, copy):
    kind, record = {"model.pt": ("diffusion", "model.json"), "classifier.pt": ("classifier", "classifier.json")}[name]
    folder, load = copy(kind), KINDS[kind][1]
    content = read_json(folder / record)
    for key in ("format", "weights_sha256") if kind == "diffusion" else ("digest",):
        del content[key]
    if kind == "classifier":
        del content["digests"]["classifier.pt"]
    write_json(folder / record, content)
    expected, whole = load(folder), (folder / name).read_bytes()
    for what, wrong in damaged(whole, name):
        (folder / name).write_bytes(wrong)
        try:
            loaded = load(folder)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            # names and padding of the archive may change, weights may not
            assert same(loaded, expected), what


@pytest.mark.parametrize(("kind", "name"), RECORDS)
def test_damage_to_a_record_is_one_line_or_changes_no_weights(kind, name, copy):
    folder, load = copy(kind), KINDS[kind][1]
    expected = load(folder)
    for what, wrong in damaged((folder / name).read_bytes(), name):
        (folder / name).write_bytes(wrong)
        try:
            loaded = load(folder)
        except InputError as error:
            assert "\n" not in str(error), what
        else:
            assert same(loaded[-1], expected[-1]), what


def keys_of(content, path=()):
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from keys_of(value, (*path, key))


def changed(content, path, change):
    content = json.loads(json.dumps(content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return content


#: keys that a record can do without
OPTIONAL = {("cohort_dir",), ("cohort_from_here",), ("schema",), ("digest",), ("digests", "cohort")}


@pytest.mark.parametrize(("kind", "name"), RECORDS)
def test_a_record_without_a_key_is_refused(kind, name, copy):
    folder, load = copy(kind), KINDS[kind][1]
    content = read_json(folder / name)
    for path in keys_of(content):
        # a shorter list may be right
        if isinstance(path[-1], str) and path not in OPTIONAL:
            write_json(folder / name, changed(content, path, lambda inner, key: inner.pop(key)))
            assert_refused(load, folder, f"{name} without {path}")


@pytest.mark.parametrize(("kind", "name"), RECORDS)
def test_a_record_of_a_newer_version_says_so(kind, name, copy):
    folder, load = copy(kind), KINDS[kind][1]
    content = read_json(folder / name)
    newer = [{**content, "format": 2}]
    if name not in (CHECKPOINT_INDEX, "clip/medi_files.json"):
        more = {**content, "sharpness": 3}
        newer.append(sealed(more) if "digest" in content else more)
    for wrong in newer:
        write_json(folder / name, wrong)
        with pytest.raises(InputError, match="update medi_monai"):
            load(folder)


@pytest.mark.parametrize(("kind", "name"), RECORDS)
@pytest.mark.parametrize("wrong", [None, True, -1, 1e300, "x", [], {}, [[]]])
def test_a_value_of_another_type_is_one_line_or_changes_nothing(kind, name, wrong, copy):
    folder, load = copy(kind), KINDS[kind][1]
    content, expected = read_json(folder / name), load(folder)

    def put(inner, key):
        inner[key] = wrong

    for path in keys_of(content):
        write_json(folder / name, changed(content, path, put))
        try:
            loaded = load(folder)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert same(loaded[-1], expected[-1]), path
    write_json(folder / name, wrong)
    assert_refused(load, folder, f"{name} = {wrong}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_even_where_they_were_saved_so(value, tmp_path):
    spoiled = network()
    with torch.no_grad():
        spoiled.conv_in.conv.weight[0, 0, 0, 0] = value
    save_model(tmp_path, spoiled.state_dict(), {})
    with pytest.raises(InputError, match="conv_in.conv.weight are not finite"):
        load_network(network(), tmp_path / "model.pt")
    guide = SubgroupClassifier({"sex": ["female", "male"]}, image_size=16, width=8)
    with torch.no_grad():
        guide.head.bias[0] = value
    save_classifier(tmp_path, guide)
    with pytest.raises(InputError, match="head.bias are not finite"):
        load_classifier(tmp_path)


def test_an_adapter_is_checked_by_its_own_digest(tmp_path):
    pytest.importorskip("peft")
    from medi_monai.networks.tuning import apply_adapter, merge_adapter, save_adapter, tuned_parameters

    tuned = network()
    tuned_parameters(tuned, "lora", 2)
    save_adapter(tuned, tmp_path / "adapter.pt", 2)
    expected = merge_adapter(tuned).state_dict()
    assert same(apply_adapter(network(), tmp_path / "adapter.pt").state_dict(), expected)
    content = (tmp_path / "adapter.pt").read_bytes()
    for what, wrong in damaged(content, "adapter"):
        (tmp_path / "adapter.pt").write_bytes(wrong)
        try:
            loaded = apply_adapter(network(), tmp_path / "adapter.pt").state_dict()
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert same(loaded, expected), what
