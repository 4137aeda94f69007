"""The package installs everywhere: requirements and pins are resolved for every platform, and nothing is installed.

Versions are asked from the package index that pip is set up for, so that no wheel of this machine alone answers.
"""

import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medi_monai

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: names of uv; torch 2.13 has wheels from macOS 14 and glibc 2.28
PLATFORMS = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "macos-arm64": "aarch64-apple-darwin",
}
#: what torch 2.13.0 asks for on Linux, from ``Requires-Dist`` of torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl on
#: PyPI (that for aarch64 is the same). A build for the CPU, which an index may serve in its place, asks for none of it.
TORCH_ON_LINUX = [
    "filelock",
    "typing-extensions>=4.10.0",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
    "cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver,cusparse,nvjitlink,nvrtc,nvtx]==13.0.3",
    "cuda-bindings<14,>=13.0.3",
    "nvidia-cudnn-cu13==9.20.0.48",
    "nvidia-cusparselt-cu13==0.8.1",
    "nvidia-nccl-cu13==2.29.7",
    "nvidia-nvshmem-cu13==3.4.5",
    "triton==3.7.1",
]
#: what the build of torch decides
OF_CUDA = re.compile(r"nvidia-|cuda-|cupy|cucim|triton")
UNREACHABLE = re.compile(r"failed to (fetch|connect)|error sending request|dns error|network connectivity", re.I)


def pins(name):
    """The requirements of a constraints file by canonical name."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def installer():
    """The command of uv and its environment, with the index, certificate and proxy that pip is set up with.

    Further indexes and folders of wheels are left out: they may hold builds that others do not get.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    options = {}
    for section in ("global", "install", ":env:"):  # the later ones win, as for pip
        options |= dict(re.findall(rf"^{section}\.([\w-]+)='(.*)'$", listed, re.M))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-build", "--no-annotate", "--no-header", "--quiet"]
    command += ["--python", sys.executable, "--no-python-downloads", "--no-config"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or "CACHE" in name}
    environment["MACOSX_DEPLOYMENT_TARGET"] = "14.0"
    if "index-url" in options:
        command += ["--default-index", options["index-url"]]
    if "no-index" in options:
        command += ["--no-index"]
    if "cert" in options:
        environment["SSL_CERT_FILE"] = options["cert"]
    if "proxy" in options:
        environment["ALL_PROXY"] = options["proxy"]
    return command, environment


def compile_requirements(requirements, *options):
    """Resolve requirements; ``name==version`` lines are on the standard output of the finished process."""
    command, environment = installer()
    lines = "\n".join(requirements)
    return subprocess.run([*command, *options, "-"], input=lines, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def declared():
    """The arguments that setup.py calls ``setup`` with."""
    arguments = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: arguments.update(options))
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return arguments


@pytest.fixture(scope="module")
def index():
    done = compile_requirements(["einops"])
    if done.returncode and ("--no-index" in done.args or UNREACHABLE.search(done.stderr)):
        pytest.skip(f"no package index can be reached, so nothing can be resolved: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr


def resolve(declared, extra, platform, python, *options):
    """Versions by name of the package with one extra on one platform, in the tested set."""
    requirements = [*declared["install_requires"], *declared["extras_require"].get(extra, [])]
    if platform.startswith("linux"):
        requirements += TORCH_ON_LINUX
    options = [*options, "--python-platform", PLATFORMS[platform], "--python-version", python]
    for name in ("constraints.txt", "constraints-cucim.txt"):
        options += ["--constraints", str(ROOT / name)]
    done = compile_requirements(requirements, *options)
    assert done.returncode == 0, f"{extra} on {platform}, Python {python}: {done.stderr}"
    return dict(line.split("==") for line in done.stdout.split() if "==" in line)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_tested_set_can_be_installed(declared, index, platform, python):
    versions = resolve(declared, "all", platform, python)  # what does for all extras does for each
    for line in declared["extras_require"]["all"]:
        need = Requirement(line)
        on_linux_alone = need.marker is not None and platform != "linux-x86_64"
        assert (canonicalize_name(need.name) in versions) != on_linux_alone, need
    # asked for again, without the network: all of it has been read above
    versions = resolve(declared, "core", platform, python, "--offline")
    versions |= resolve(declared, "docs", platform, python, "--offline")
    pinned = pins("constraints.txt")
    assert versions["torch"] == "2.13.0"
    assert [name for name in versions if name not in pinned and not OF_CUDA.match(name)] == []


def test_no_pin_decides_what_the_build_of_torch_decides():
    pinned = pins("constraints.txt")
    assert str(pinned["torch"].specifier) == "==2.13.0"  # TORCH_ON_LINUX is of this release
    assert [name for name in pinned if OF_CUDA.match(name)] == []
    needs = {canonicalize_name(need.name): need for need in map(Requirement, TORCH_ON_LINUX)}
    for name, pin in (pinned | pins("constraints-cucim.txt")).items():
        version = str(pin.specifier).removeprefix("==")
        assert name not in needs or needs[name].specifier.contains(version), f"torch asks for {needs[name]}"


def test_pins_keep_to_the_declared_bounds(declared):
    pinned = pins("constraints.txt") | pins("constraints-cucim.txt")
    for need in map(Requirement, [*declared["install_requires"], *declared["extras_require"]["all"]]):
        pin = pinned.get(canonicalize_name(need.name))
        if pin is not None:
            assert need.specifier.contains(str(pin.specifier).removeprefix("==")), need


def test_declared_versions_of_python_are_those_resolved_for(declared):
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(declared["classifiers"]))
    assert tuple(named) == PYTHONS
    assert declared["python_requires"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("document", ["README.md", "Makefile", "docs/runs.md", "docs/your_data.md", "docs/evidence.md"])
def test_commands_name_constraints_and_extras_that_exist(declared, document):
    text = (ROOT / document).read_text()
    for name in re.findall(r"-c (\S+\.txt)", text):
        assert (ROOT / name).is_file(), name
    extras = {extra for names in re.findall(r'"(?:medi_monai|\.)\[([\w,]+)\]"', text) for extra in names.split(",")}
    assert extras <= set(declared["extras_require"])


def test_every_file_of_the_package_is_in_its_wheel(declared):
    package = ROOT / "medi_monai"
    data = {path for pattern in declared["package_data"]["medi_monai"] for path in package.glob(pattern)}
    modules = {path for name in declared["packages"] for path in (ROOT / name.replace(".", "/")).glob("*.py")}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert sorted(str(path.relative_to(ROOT)) for path in files - data - modules) == []


def test_the_notice_names_every_pinned_package_whose_license_is_not_permissive():
    notice = (ROOT / "NOTICE").read_text()
    names = {canonicalize_name(name) for name in re.findall(r"[\w.-]+", notice)}
    found = set()
    for installed in distributions():
        about = installed.metadata
        said = [about.get("License-Expression") or about.get("License") or "", *(about.get_all("Classifier") or [])]
        if re.search(r"\bL?GPL|\bMPL\b|Mozilla", " ".join(text[:300] for text in said)):
            found.add(canonicalize_name(about["Name"]))
    assert {"openslide-python", "tqdm"} <= found  # that licenses are read at all
    assert found & set(pins("constraints.txt")) <= names


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == medi_monai.__version__ and citation["license"] == "Apache-2.0"
