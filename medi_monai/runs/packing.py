"""The command ``medi-monai pack``: a bundle with a trained model, for the MONAI Model Zoo or the Hugging Face hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import yaml

from medi_monai.engines.model_dir import MODEL_FILES, portable_settings
from medi_monai.networks.text.captions import portable_schema
from medi_monai.utils.errors import InputError, one_line
from medi_monai.utils.files import atomic_path, file_digest, read_json, write_json
from medi_monai.utils.sizes import size_text
from medi_monai.utils.text import listed
from medi_monai.utils.written import start_list

__all__ = ["LARGEST", "pack_bundle", "push_bundle"]

#: maximum size in bytes of a file in the Model Zoo
LARGEST = 25_000_000
#: folders and files of a bundle that are packed, besides the model
PARTS = ("configs", "docs", "LICENSE")
WEIGHTS = "model.pt"
LARGE_FILES = "large_files.yml"
#: indent of JSON files in the Model Zoo
ZOO_INDENT = 4
#: time of all files in the archive, so that the same bundle gives the same archive
TIME = (2020, 1, 1, 0, 0, 0)


def pack_bundle(
    bundle: str | os.PathLike,
    output: str | os.PathLike | None = None,
    ckpt_dir: str | os.PathLike | None = None,
    weights_url: str | None = None,
) -> Path:
    """Write an archive of a bundle and a trained model that holds no path of this machine.

    Args:
        bundle: folder of the bundle.
        output: archive to write; by default ``<name>_v<version>.zip`` in the working directory.
        ckpt_dir: folder of the trained model; by default ``models`` in the bundle.
        weights_url: address from which the weights can be downloaded. They are then left out, and ``large_files.yml``
            has the address and their digest.

    Returns:
        the archive.

    Raises:
        InputError: if there is no bundle or model, the archive exists, or a file is too large for the Model Zoo.
    """
    bundle = Path(bundle).resolve()
    version = _version(bundle)
    target = Path(output or f"{bundle.name}_v{version}.zip")
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists and is not overwritten: move it, or choose another name with --output")
    with tempfile.TemporaryDirectory() as staging:
        folder = Path(staging) / bundle.name
        _stage(bundle, folder, Path(ckpt_dir or bundle / "models"), weights_url)
        with atomic_path(target) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.writestr(
                        zipfile.ZipInfo(file.relative_to(staging).as_posix(), TIME),
                        file.read_bytes(),
                        zipfile.ZIP_DEFLATED,
                    )
    return target


def push_bundle(archive: str | os.PathLike, repository: str) -> str:
    """Upload the content of an archive to a repository on the Hugging Face hub, which is created if necessary.

    Args:
        archive: file written by :func:`pack_bundle`.
        repository: ``owner/name``; you have to be logged in (``hf auth login``).

    Returns:
        the address of the repository.

    Raises:
        InputError: if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)
            (bundle,) = Path(folder).iterdir()
            address = api.create_repo(repository, repo_type="model", exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=bundle, commit_message=f"{bundle.name} {_version(bundle)}"
            )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(f"cannot upload to {repository}: {one_line(error, 300)}") from error
    return str(address)


def _version(bundle: Path) -> str:
    metadata = bundle / "configs" / "metadata.json"
    if not metadata.is_file():
        raise InputError(f"there is no bundle in {bundle}: it has no configs/metadata.json")
    return str(read_json(metadata)["version"])


def _stage(bundle: Path, folder: Path, ckpt_dir: Path, weights_url: str | None) -> None:
    missing = [name for name in MODEL_FILES if not (ckpt_dir / name).is_file()]
    if missing:
        raise InputError(f"there is no trained model in {ckpt_dir}: {listed(missing)} missing. Give --ckpt_dir")
    for name in PARTS:
        if (bundle / name).is_dir():
            shutil.copytree(bundle / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (bundle / name).is_file():
            folder.mkdir(exist_ok=True)
            shutil.copy(bundle / name, folder / name)
    for file in (folder / "configs").glob("*.json"):
        file.write_text(json.dumps(read_json(file), indent=ZOO_INDENT) + "\n", encoding="utf-8")
    models = folder / "models"
    # the list makes later runs treat the model as that of an earlier run, which they set aside and do not refuse
    start_list(models)
    write_json(models / "model.json", portable_settings(ckpt_dir))
    schema, text_model = portable_schema(ckpt_dir / "schema.json")
    write_json(models / "schema.json", schema)
    if text_model is not None:
        _copy(text_model, models / schema["beside"])
    if weights_url:
        large = {"path": f"models/{WEIGHTS}", "url": weights_url, "hash_val": file_digest(ckpt_dir / WEIGHTS)}
        large["hash_type"] = "sha256"
        (folder / LARGE_FILES).write_text(yaml.safe_dump({"large_files": [large]}, sort_keys=False), encoding="utf-8")
    else:
        _copy(ckpt_dir / WEIGHTS, models / WEIGHTS)
    _check_sizes(folder)


def _copy(source: Path, target: Path) -> None:
    for file in [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]:
        with atomic_path(target if source.is_file() else target / file.relative_to(source)) as copy:
            shutil.copyfile(file, copy)


def _check_sizes(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size > LARGEST:
            raise InputError(
                f"{file.relative_to(folder)} has {size_text(file.stat().st_size)}, and the Model Zoo takes files of up "
                f"to {size_text(LARGEST)}: upload it, and give its address with --weights_url"
            )
