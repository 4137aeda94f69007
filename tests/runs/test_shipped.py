import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medi_monai.__main__ import main
from medi_monai.runs.shipped import PATHOLOGY_BUNDLE, copy_shipped, find_bundle, shipped_dir
from medi_monai.utils.errors import InputError

ROOT = Path(__file__).parents[2]
NAMES = ("bundles", "configs", "constraints.txt", "constraints-cucim.txt")


def files_of(folder):
    """The files that are shipped, relative to the folder."""
    found = set()
    for name in NAMES:
        path = folder / name
        found |= {
            file.relative_to(folder) for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
        }
    return {file for file in found if not {"output", "__pycache__"} & set(file.parts)}


def test_a_checkout_has_what_is_shipped_next_to_the_package():
    assert shipped_dir() == ROOT


def test_the_copies_are_complete_and_nothing_is_overwritten(tmp_path, capsys):
    main(["bundles", str(tmp_path / "new")])
    assert files_of(tmp_path / "new") == files_of(ROOT)
    assert str(tmp_path / "new" / "bundles") in capsys.readouterr().out
    (tmp_path / "used" / "configs").mkdir(parents=True)
    with pytest.raises(InputError, match="configs exists and is not overwritten"):
        copy_shipped(tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["configs"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to .*file"):
        copy_shipped(tmp_path / "file" / "inside")


def test_a_bundle_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundle(PATHOLOGY_BUNDLE) == ROOT / "bundles" / PATHOLOGY_BUNDLE
    (tmp_path / "bundles" / PATHOLOGY_BUNDLE).mkdir(parents=True)
    assert find_bundle(PATHOLOGY_BUNDLE) == Path("bundles") / PATHOLOGY_BUNDLE


def test_a_built_package_holds_all_of_it(tmp_path):
    """What setup.py puts into the wheel is found without the repository; what runs wrote into bundles is left out."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "docs", "tests", "tutorials", "bundles"))
    written = shutil.ignore_patterns("output", "checkpoint*", "earlier-*", "cls", ".run.lock")
    shutil.copytree(ROOT / "bundles", source / "bundles", ignore=written)
    expected = files_of(source)
    for name in ("models/checkpoint_00000001.pt", "models/earlier-1/model.pt", "output/summary.json"):
        path = source / "bundles" / PATHOLOGY_BUNDLE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    build = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    build += ["build", "--build-base", str(tmp_path / "build"), "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    assert files_of(tmp_path / "lib" / "medi_monai" / "shipped") == expected
    code = "import medi_monai; from medi_monai.runs.shipped import shipped_dir; print(shipped_dir())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "lib" / "medi_monai" / "shipped")
