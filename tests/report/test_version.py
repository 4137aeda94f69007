import subprocess

import medi_monai
from medi_monai.report import version


def described(monkeypatch, tmp_path, run):
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    version.code_version.cache_clear()
    try:
        return version.code_version()
    finally:
        version.code_version.cache_clear()


def test_outside_a_repository_it_is_that_of_the_package(monkeypatch, tmp_path):
    assert described(monkeypatch, tmp_path, None) == medi_monai.__version__


def test_in_a_repository_the_commit_is_added(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    done = subprocess.CompletedProcess([], 0, stdout="1a2b3c4-dirty\n")
    description = described(monkeypatch, tmp_path, lambda *command, **options: done)
    assert description == f"{medi_monai.__version__} (commit 1a2b3c4-dirty)"


def test_without_git_it_is_that_of_the_package(monkeypatch, tmp_path):
    def missing(*command, **options):
        raise FileNotFoundError("git")

    (tmp_path / ".git").mkdir()
    assert described(monkeypatch, tmp_path, missing) == medi_monai.__version__
