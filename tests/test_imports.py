"""Imports point down only, and the packages that hold heavy or optional libraries are the ones that should."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import medi_monai
from medi_monai.utils.optional import EXTRAS

ROOT = Path(medi_monai.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

LAYERS = (
    {"utils"},
    {"schema", "results"},
    {"wsi", "diffusion", "metrics"},
    {"cohort", "networks"},
    {"report"},
    {"engines"},
    {"alignment"},
    {"evaluation"},
    {"runs"},
)
HEIGHT = {package: height for height, layer in enumerate(LAYERS) for package in layer}
PROGRAM = len(LAYERS)  # a file beside the packages, run with ``python -m``: imports any of them, imported by none
HOOK = "medi_monai.bundle_hook.install"
ARRAYS_ONLY = {"diffusion", "metrics"}
HOMES = {
    "ignite": ("engines/", "alignment/", "evaluation/", "runs/"),
    "monai.engines": ("engines/", "alignment/"),
    "monai.handlers": ("engines/",),
    "openslide": ("wsi/",),
    "cucim": ("wsi/",),
    "tifffile": ("wsi/", "cohort/demo/"),
}


def imported_names(node, file):
    """Absolute dotted names that one statement or call imports; ``from a import b`` gives ``a.b``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = ["medi_monai", *Path(file).parent.parts]
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called in ("require", "import_module", "__import__", "optional_import"):
            return [str(node.args[0].value)]
    return []


def all_imports(source, file):
    return [name for node in ast.walk(ast.parse(source)) for name in imported_names(node, file)]


def wrong_directions(source, file):
    own = Path(file).parts[0]
    wrong = []
    for name in all_imports(source, file):
        root, _, below = name.partition(".")
        other = below.partition(".")[0]
        if root != "medi_monai" or other in (own, "__version__") or (file == "__init__.py" and name == HOOK):
            continue
        down = HEIGHT.get(other, PROGRAM) < HEIGHT.get(own, PROGRAM)
        if not down or (own in ARRAYS_ONLY and other != "utils"):
            wrong.append(name)
    return wrong


def libraries_abroad(source, file):
    return [
        name
        for name in all_imports(source, file)
        for library, homes in HOMES.items()
        if (name == library or name.startswith(library + ".")) and not file.startswith(homes)
    ]


def private_names(source, file):
    """What is imported of another module of ours though its name begins with an underscore."""
    names = [name for name in all_imports(source, file) if name.startswith("medi_monai.")]
    return [name for name in names if any(word.startswith("_") for word in name.split(".")) and "__" not in name]


def optional_on_import(source, file):
    def executed_on_import(node):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                yield child
                yield from executed_on_import(child)

    names = [name for node in executed_on_import(ast.parse(source)) for name in imported_names(node, file)]
    return [name for name in names if name.partition(".")[0] in EXTRAS]


def test_every_package_has_a_layer():
    packages = {Path(file).parts[0] for file in FILES if "/" in file}
    assert packages and packages <= set(HEIGHT), "give a new package its layer here and in the docs"


@pytest.mark.parametrize("file", FILES)
def test_imports_of_file(file):
    source = (ROOT / file).read_text(encoding="utf-8")
    assert wrong_directions(source, file) == []
    assert libraries_abroad(source, file) == []
    assert optional_on_import(source, file) == []
    assert private_names(source, file) == []


def folder_imports(file, names):
    """Pairs of folders of one package of which the first imports from the second."""
    own, pairs = Path(file).parent.parts, set()
    for name in names:
        other = name.split(".")[1:] if name.startswith("medi_monai.") else []
        depth = next((n for n, (first, second) in enumerate(zip(own, other)) if first != second), None)
        # a module is no folder
        if depth and (ROOT / Path(*other[: depth + 1])).is_dir():
            pairs.add(("/".join(own[: depth + 1]), "/".join(other[: depth + 1])))
    return pairs


def circles(pairs):
    """Folders that import from themselves by way of others."""
    reached = {first: {second for start, second in pairs if start == first} for first, _ in pairs}
    for _ in reached:
        reached = {first: of.union(*(reached.get(second, ()) for second in of)) for first, of in reached.items()}
    return sorted(first for first, of in reached.items() if first in of)


def test_folders_of_a_package_import_in_one_direction():
    pairs = {
        pair for file in FILES for pair in folder_imports(file, all_imports((ROOT / file).read_text("utf-8"), file))
    }
    assert ("evaluation/probing", "evaluation/shortcuts") in pairs and (
        "evaluation/shortcuts",
        "evaluation/probes",
    ) in pairs
    assert circles(pairs) == []


def test_the_rule_of_folders_finds_a_circle():
    down = folder_imports(
        "evaluation/probing/run.py", ["medi_monai.evaluation.shortcuts.figures.x", "medi_monai.utils.x"]
    )
    assert down == {("evaluation/probing", "evaluation/shortcuts")} and circles(down) == []
    up = folder_imports(
        "evaluation/shortcuts/pairs.py", ["medi_monai.evaluation.probing", "medi_monai.evaluation.views.x"]
    )
    deep = folder_imports("evaluation/probes/heads/robust.py", ["medi_monai.evaluation.probing.jobs.x"])
    assert circles(down | up) == ["evaluation/probing", "evaluation/shortcuts"]
    round_about = down | deep | {("evaluation/shortcuts", "evaluation/probes")}
    assert circles(round_about) == ["evaluation/probes", "evaluation/probing", "evaluation/shortcuts"]


def test_files_and_folders_are_small():
    modules = [Path(file) for file in FILES if not file.endswith("__init__.py")]
    crowded = {
        str(folder) for folder in {file.parent for file in modules} if sum(f.parent == folder for f in modules) > 15
    }
    long = [file for file in FILES if len((ROOT / file).read_text(encoding="utf-8").splitlines()) > 400]
    assert not crowded and not long


def test_the_bare_package_imports_nothing_of_its_own_but_the_hook_which_imports_nothing():
    names = all_imports((ROOT / "__init__.py").read_text(), "__init__.py")
    assert [name for name in names if "medi_monai" in name] == [HOOK]
    tree = ast.parse((ROOT / "bundle_hook.py").read_text())
    top = [name.partition(".")[0] for node in tree.body for name in imported_names(node, "bundle_hook.py")]
    assert set(top) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("utils/x.py", "from medi_monai.schema import NULL"),
        ("diffusion/x.py", "import medi_monai.wsi.color"),
        ("diffusion/x.py", "from medi_monai.schema import NULL"),
        ("networks/x.py", "from medi_monai import cohort"),
        ("cohort/demo/x.py", "from ...networks import unet"),
        ("schema/x.py", "def f():\n    from medi_monai.engines import trainer"),
        ("engines/x.py", "from medi_monai.alignment.tuning import x"),
        ("engines/x.py", "from medi_monai.demo import main"),
    ],
)
def test_the_rule_of_directions_finds_a_breach(file, source):
    assert len(wrong_directions(source, file)) == 1


def test_the_rule_of_directions_allows_what_points_down():
    assert wrong_directions("from medi_monai.report import page\nfrom medi_monai.wsi import x", "engines/x.py") == []
    assert wrong_directions("from . import solvers\nfrom medi_monai.utils import errors", "diffusion/x.py") == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("networks/x.py", "from monai.handlers import CheckpointSaver"),
        ("networks/x.py", "from monai import handlers"),
        ("cohort/x.py", "import tifffile"),
        ("cohort/demo/x.py", "import openslide"),
        ("engines/x.py", "cucim = require('cucim', 'to read slides')"),
        ("report/x.py", "import ignite.distributed as idist"),
    ],
)
def test_the_rule_of_homes_finds_a_breach(file, source):
    assert len(libraries_abroad(source, file)) == 1


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from medi_monai.cohort.prepare import QUALITY_FILE, _claim", ["medi_monai.cohort.prepare._claim"]),
        ("from .table import _check", ["medi_monai.cohort.table._check"]),
        ("import medi_monai.wsi._level", ["medi_monai.wsi._level"]),
        ("from medi_monai import __version__\nfrom torch.utils.data import _utils", []),
    ],
)
def test_the_rule_of_private_names_finds_a_breach(source, private):
    assert private_names(source, "cohort/x.py") == private


def test_the_rule_of_optional_packages_finds_what_runs_on_import():
    assert optional_on_import("try:\n    import timm\nexcept ImportError:\n    pass", "networks/x.py") == ["timm"]
    assert optional_on_import("class A:\n    from peft import LoraConfig", "networks/x.py") == ["peft.LoraConfig"]
    assert optional_on_import("def f():\n    import timm", "networks/x.py") == []


def test_importing_the_package_loads_no_optional_package(tmp_path):
    # stand-ins that import, so that an import hidden in try/except shows as well
    for package in EXTRAS:
        (tmp_path / f"{package}.py").touch()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import medi_monai; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "medi_monai" in loaded
    assert set(loaded) & set(EXTRAS) == set()


def code_outside():
    """Code that imports the package but that no test runs as a whole: benchmarks, and the cells of notebooks."""
    for path in sorted((ROOT.parent / "tests" / "benchmarks").glob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT.parent / "tutorials").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        lines = (line for cell in code for line in cell.splitlines() if not line.startswith(("%", "!")))
        yield path.name, "\n".join(lines)


@pytest.mark.parametrize(("name", "source"), [pytest.param(*given, id=given[0]) for given in code_outside()])
def test_benchmarks_and_notebooks_import_what_exists(name, source):
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").partition(".")[0] == "medi_monai"]
    for node in ours:
        module = importlib.import_module(node.module)
        for alias in node.names:
            found = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
            assert found, f"{name} imports {alias.name} from {node.module}, which has no such name"
