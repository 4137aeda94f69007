import pytest
import torch

from medi_monai.networks.precision import Hardware, choose_precision
from medi_monai.runs import devices
from medi_monai.runs.devices import device_line, precision_of
from medi_monai.runs.settings import GROUPS, check_groups
from medi_monai.utils.files import write_json


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name in devices.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 8)


def test_a_run_without_a_device_says_nothing():
    assert device_line({"cohort": {"label": "x"}}) is None


def test_the_line_says_what_was_taken_and_why(on_cpu, monkeypatch):
    groups = {"device": {"device": torch.device("cpu")}, "training": {"amp": False}}
    assert device_line(groups) == "device cpu (PyTorch finds no GPU), float32 (amp false), 3 threads (of 8 cores)"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert device_line({"device": {"device": "cpu"}}) == (
        "device cpu (PyTorch finds no GPU), 3 threads (OMP_NUM_THREADS=3)"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_line(groups).startswith("device cpu (although there is a GPU), float32")


def taken_by(features, amp, **groups):
    def fastest(device, allow_float16):
        return choose_precision(Hardware("cpu", features), lambda name: 0.5, allow_float16)

    taken = precision_of(amp, {"device": {"device": "cpu"}, **groups}, fastest)
    return taken.name, taken.reason


NONE = {"avx2": True, "avx512_bf16": False}


def test_auto_takes_bfloat16_where_the_cpu_has_it_and_flags_force_it():
    assert taken_by({"avx512_bf16": True}, "auto") == ("bfloat16", "amp auto: the CPU has avx512_bf16")
    assert taken_by(NONE, "auto") == ("float32", "amp auto: the CPU has no bfloat16 instructions")
    assert taken_by({}, "auto") == ("float32", "amp auto: bfloat16 measured 0.5 times as fast as float32")
    assert taken_by({"avx512_bf16": True}, False) == ("float32", "amp false")
    assert taken_by({"avx512_bf16": True}, True) == ("bfloat16", "amp true")
    assert taken_by(NONE, True) == (
        "bfloat16",
        "amp true; this CPU is not fast in it: the CPU has no bfloat16 instructions; --amp auto takes float32",
    )


def test_the_line_names_the_precision_that_auto_takes(on_cpu):
    groups = {"device": {"device": "cpu"}, "training": {"amp": "auto"}}
    taken = precision_of("auto", groups)
    assert f", {taken.name} ({taken.reason}), 3 threads" in device_line(groups)
    assert taken.reason.startswith("amp auto: ")


def test_a_resumed_training_keeps_its_precision(tmp_path):
    write_json(tmp_path / "model.json", {"precision": "float32"})
    model = {"model": {"ckpt_dir": str(tmp_path)}, "training": {"resume": True}}
    kept = ("float32", "amp auto: as before in this training")
    assert taken_by({"avx512_bf16": True}, "auto", **model) == kept
    assert taken_by({"avx512_bf16": True}, "auto", **{**model, "training": {"resume": False}})[0] == "bfloat16"
    # the folder of the model that is tuned says nothing of the tuning
    assert (
        taken_by({"avx512_bf16": True}, "auto", **model, tuned=GROUPS["tuned_model"](aligned_dir="x"))[0] == "bfloat16"
    )
    for content in ({"precision": "int8"}, {}, []):
        write_json(tmp_path / "model.json", content)
        assert taken_by({"avx512_bf16": True}, "auto", **model)[0] == "bfloat16"
    (tmp_path / "model.json").write_text("{")
    assert taken_by({"avx512_bf16": True}, "auto", **model)[0] == "bfloat16"


@pytest.mark.parametrize("group", ["training", "adaptation", "autoencoding", "tuned_model"])
def test_float16_is_for_runs_that_scale_their_gradients(group):
    allowed = []

    def fastest(device, allow_float16):
        allowed.append(allow_float16)
        return choose_precision(Hardware("cpu", NONE), lambda name: 0.5, allow_float16)

    values = {"aligned_dir": "x"} if group == "tuned_model" else {}
    precision_of("auto", {"device": {"device": "cpu"}, group: GROUPS[group](**values)}, fastest)
    assert allowed == [group == "training"]


def test_the_line_is_printed_once_by_the_first_process(capsys, monkeypatch):
    groups = {"device": GROUPS["device"](device="cpu"), "sampling": GROUPS["sampling"]()}
    check_groups(groups)
    assert capsys.readouterr().out.startswith("device cpu (")
    monkeypatch.setenv("RANK", "1")
    check_groups(groups)
    assert not capsys.readouterr().out
