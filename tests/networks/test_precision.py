import pytest
import torch

from medi_monai.networks.precision import (
    Hardware,
    Precision,
    choose_precision,
    dtype_of,
    fast_precision,
    measured_gain,
    probe,
)


def never(name):
    raise AssertionError(f"{name} was measured, although a feature tells")


@pytest.mark.parametrize(("hardware", "name", "reason"), [
    (Hardware("cpu", {"avx2": True, "avx512_f": True, "avx512_bf16": False}), "float32", "no bfloat16 instructions"),
    (Hardware("cpu", {"avx512_bf16": True}), "bfloat16", "the CPU has avx512_bf16"),
    (Hardware("cpu", {"avx512_bf16": True, "amx_bf16": True}), "bfloat16", "the CPU has amx_bf16"),
    (Hardware("cpu", {"neon": True, "bf16": True}), "bfloat16", "the CPU has bf16"),
    (Hardware("cpu", {"neon": True, "bf16": False}), "float32", "no bfloat16 instructions"),
    (Hardware("cuda", capability=(9, 0)), "bfloat16", "compute capability 9.0"),
    (Hardware("cuda", capability=(8, 0)), "bfloat16", "compute capability 8.0"),
    (Hardware("cuda", capability=(7, 5)), "float16", "compute capability 7.5 has no bfloat16"),
])  # fmt: skip
def test_features_tell_what_is_taken_without_measuring(hardware, name, reason):
    chosen = choose_precision(hardware, never)
    assert chosen.name == name and reason in chosen.reason


@pytest.mark.parametrize(("hardware", "gains", "name", "reason"), [
    (Hardware("cpu", {"avx512_bf16": True}, doubt="ONEDNN_MAX_CPU_ISA=AVX2"), {"bfloat16": 0.03}, "float32",
     "ONEDNN_MAX_CPU_ISA=AVX2; bfloat16 measured 0.03 times as fast as float32"),
    (Hardware("cpu", {}), {"bfloat16": 4.9}, "bfloat16", "measured 4.9 times as fast as float32"),
    (Hardware("cpu", {}), {"bfloat16": 1.1}, "float32", "bfloat16 measured 1.1 times"),
    (Hardware("cpu", {}), {"bfloat16": None}, "float32", "bfloat16 was not measured"),
    (Hardware("cuda", capability=(6, 0)), {"float16": 1.9}, "float16", "measured 1.9 times"),
    (Hardware("cuda", capability=(6, 1)), {"float16": 0.02}, "float32", "6.1 has no bfloat16; float16 measured 0.02"),
    (Hardware("mps"), {"bfloat16": 1.0, "float16": 1.7}, "float16", "measured 1.7 times"),
    (Hardware("cuda"), {"bfloat16": 2.0}, "bfloat16", "measured 2 times"),
])  # fmt: skip
def test_what_no_feature_tells_is_measured(hardware, gains, name, reason):
    chosen = choose_precision(hardware, gains.__getitem__)
    assert chosen.name == name and reason in chosen.reason


def test_without_a_scaled_loss_float16_is_not_taken():
    assert choose_precision(Hardware("cuda", capability=(7, 5)), never, allow_float16=False).name == "float32"
    assert choose_precision(Hardware("cuda", capability=(6, 0)), never, allow_float16=False) == Precision(
        "float32", "compute capability 6.0 has no bfloat16"
    )
    assert choose_precision(Hardware("mps"), {"bfloat16": 1.0}.__getitem__, allow_float16=False).name == "float32"


def test_a_limited_cpu_is_doubted(monkeypatch):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    hardware = probe("cpu")
    assert hardware.kind == "cpu" and hardware.capability is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert probe("cpu").doubt == (hardware.doubt or "ONEDNN_MAX_CPU_ISA=AVX2")


def test_the_gain_of_this_machine_is_a_ratio_of_times(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    measured_gain.cache_clear()
    assert 0 < measured_gain("cpu", "bfloat16") < 1000
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert measured_gain.__wrapped__("cpu", "bfloat16") is None
    assert fast_precision("cpu") is fast_precision("cpu")
    assert dtype_of(fast_precision("cpu").name) in (torch.bfloat16, torch.float16, torch.float32)
