import pytest
import torch

from medi_monai.runs import devices
from medi_monai.runs.devices import device_line
from medi_monai.runs.settings import GROUPS, check_groups


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


@pytest.mark.parametrize(("capabilities", "text"), [
    ({"avx2": True, "avx512_bf16": False}, "bfloat16, for which this CPU has no instructions (--amp false may be"),
    ({"avx512_bf16": True}, "bfloat16 (amp true)"),
    ({}, "bfloat16 (amp true)"),
])  # fmt: skip
def test_bfloat16_that_a_cpu_lacks_is_said(on_cpu, monkeypatch, capabilities, text):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert text in device_line({"device": {"device": "cpu"}, "sampling": {"amp": True}})


def test_the_line_is_printed_once_by_the_first_process(capsys, monkeypatch):
    groups = {"device": GROUPS["device"](device="cpu"), "sampling": GROUPS["sampling"]()}
    check_groups(groups)
    assert capsys.readouterr().out.startswith("device cpu (")
    monkeypatch.setenv("RANK", "1")
    check_groups(groups)
    assert not capsys.readouterr().out
