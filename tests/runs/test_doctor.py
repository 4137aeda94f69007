import shutil
from pathlib import Path

import openslide
import pytest
import torch

import medi_monai
from medi_monai.__main__ import main
from medi_monai.runs.doctor import TOPICS, Line, diagnose
from medi_monai.utils.optional import EXTRAS, GIVES


@pytest.fixture
def diagnosis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return diagnose()


def of(diagnosis, topic):
    return [line.text for line in diagnosis if line.topic == topic]


def test_it_finds_what_is_here(diagnosis, tmp_path):
    assert [line.topic for line in diagnosis if line.state == "problem"] == []
    versions = " ".join(of(diagnosis, "versions"))
    assert f"medi_monai {medi_monai.__version__}" in versions and f"torch {torch.__version__}" in versions
    assert of(diagnosis, "slides")[0] == f"OpenSlide {openslide.__library_version__}"
    assert str(tmp_path) in of(diagnosis, "disk")[0]
    assert any(text.startswith("ready: embedded") for text in of(diagnosis, "encoders"))


def test_each_missing_extra_has_a_purpose_and_a_command(monkeypatch, tmp_path):
    assert set(GIVES) == set(EXTRAS.values())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medi_monai.runs.doctor.is_installed", lambda package: package not in ("h5py", "timm"))
    lines = [line for line in diagnose() if line.topic == "extras" and line.state == "missing"]
    assert [line.text.partition(":")[0] for line in lines] == ["encoders", "features"]
    assert lines[1].text.endswith('Install: pip install "medi_monai[features]"') and GIVES["features"] in lines[1].text


def test_little_disk_space_is_a_problem(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(3e9, 2.5e9, 5e8))
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "! 500 MB free" in shown and "Lines with ! need your attention." in shown


def test_what_cannot_be_examined_is_a_problem_and_does_not_hide_the_rest(monkeypatch, tmp_path):
    def broken():
        raise OSError("libopenslide.so.1: cannot open shared object file")
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOPICS, "slides", broken)
    lines = diagnose()
    told = "cannot be examined: libopenslide.so.1: cannot open shared object file"
    assert Line("slides", told, "problem") in lines and lines[-1].topic == "extras"


@pytest.mark.parametrize(
    ("cuda", "told"), [(None, "is a build without CUDA"), ("13.0", "PyTorch for CUDA 13.0 finds no GPU")]
)
def test_a_gpu_that_pytorch_cannot_use_is_a_problem(monkeypatch, tmp_path, cuda, told):
    if torch.cuda.is_available():
        pytest.skip("PyTorch finds the GPU")
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (problem,) = [line for line in diagnose() if line.state == "problem"]
    assert problem.topic == "device" and told in problem.text
    assert Path(program).exists()
