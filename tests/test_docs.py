"""Documents: links lead to files and headings, commands name runs and options that exist, and the site is built."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medi_monai.runs.workflow import read_configs, run_ids

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bundles/*/docs/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(path):
    """Anchors of the headings of a document, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = [re.sub(r"[`*_]|\]\([^)]*\)|\[", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in LINK.findall(CODE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target) if target else path
        assert found.exists(), f"{link}: no such file"
        if anchor and found.suffix == ".md":
            assert anchor in anchors_of(found), f"{link}: no such heading"


def commands_of(path):
    """Command lines of MONAI bundles in the code blocks of a document, each on one line."""
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if "monai.bundle run " in line:
                yield line.partition("monai.bundle run ")[2].partition("   #")[0]


def parsed(command):
    """Run id, names of configs, and options of a command line."""
    words = shlex.split(command, comments=True)
    options = [word[2:].partition("=")[0] for word in words[1:] if word.startswith("--")]
    configs = re.findall(r"configs/(\w+\.json)", command)
    return words[0], configs, options


BUNDLES = {path.name: path for path in sorted((ROOT / "bundles").iterdir())}
COMMANDS = [
    pytest.param(command, id=f"{path.relative_to(ROOT)} {number}")
    for path in DOCUMENTS
    for number, command in enumerate(commands_of(path))
    if "CHANGELOG" not in path.name
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_runs_and_options_that_exist(command):
    run, configs, options = parsed(command)
    known = {name: run_ids(path / "configs") for name, path in BUNDLES.items()}
    fitting = [name for name, runs in known.items() if run in runs and (not configs or runs[run] in configs)]
    if not fitting and run == "run":
        fitting = [
            name for name, path in BUNDLES.items() if all((path / "configs" / file).is_file() for file in configs)
        ]
    assert fitting, f"no bundle has the run {run!r} in {configs}"
    allowed = {"bundle_root", "config_file", "tracking", "args_file"}
    for name in fitting:
        folder = BUNDLES[name] / "configs"
        files = [folder / file for file in (configs or [known[name][run]]) if (folder / file).is_file()]
        allowed |= set(read_configs(files, folder))
    unknown = [option for option in options if option.partition("#")[0] not in allowed]
    assert not unknown, f"unknown options {unknown}"


def test_the_site_is_built_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    start = (tmp_path / "site" / "index.html").read_text()
    assert "Has my classifier learned the hospital" in start
    notebook = (tmp_path / "site" / "tutorials" / "04_subpopulations.html").read_text()
    assert notebook.count("data:image/png") == 5
    reference = (tmp_path / "site" / "reference" / "metrics.html").read_text()
    assert 'id="medi_monai.metrics.frechet_distance"' in reference
