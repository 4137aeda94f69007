import ast
import sys
from pathlib import Path

import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import EXTRAS, is_installed, require


def test_probing_a_package_does_not_import_it(tmp_path, monkeypatch):
    (tmp_path / "fails_on_import.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("fails_on_import")
    assert not is_installed("there_is_no_such_package")


def test_require_returns_the_module(tmp_path, monkeypatch):
    (tmp_path / "stand_in_encoder.py").write_text("ANSWER = 42")
    monkeypatch.syspath_prepend(tmp_path)
    assert require("stand_in_encoder", "to embed patches").ANSWER == 42
    sys.modules.pop("stand_in_encoder")


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_purpose_and_remedy(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        require(package, "to embed patches")
    assert f"{package} is needed to embed patches" in str(caught.value)
    assert f'pip install "medi_monai[{EXTRAS[package]}]"' in str(caught.value)


def test_a_package_outside_the_extras_is_installed_by_its_own_name():
    with pytest.raises(InputError, match="pip install there_is_no_such_package"):
        require("there_is_no_such_package", "here")


def test_setup_has_the_extra_that_brings_each_package():
    tree = ast.parse((Path(__file__).parents[2] / "setup.py").read_text())
    extras = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS"
    )
    for package, extra in EXTRAS.items():
        assert any(package.replace("_", "-") in requirement for requirement in extras[extra]), package
