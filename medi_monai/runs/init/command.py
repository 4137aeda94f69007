"""The command ``medi-monai init FOLDER_OR_TABLE``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from medi_monai.runs.init.proposal import Proposal, propose
from medi_monai.runs.init.survey import survey
from medi_monai.runs.init.trial import try_overlay
from medi_monai.runs.shipped import find_bundle
from medi_monai.utils.errors import InputError

__all__ = ["overlay_text", "propose_overlay"]

#: matches text that needs no quotes in YAML
PLAIN = re.compile(r"[A-Za-z][\w.-]*(?: [\w.-]+)*")


def propose_overlay(target: Path, output: Path | None = None) -> None:
    """Look at a folder or table, write an overlay for the user to edit, and print the next command.

    Args:
        target: folder of the images, or a table in it; nothing in the folder is changed.
        output: the overlay to write; by default, the name of the folder with the ending ``.yaml``, in the working
            directory.

    Raises:
        InputError: if nothing can be proposed, or ``output`` exists.
    """
    found = survey(target)
    output = output or Path(re.sub(r"[^\w.-]+", "_", found.root.name) + ".yaml")
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists and is not overwritten: move it, or choose another name with --output")
    proposal = propose(found)
    for title, lines in (
        ("Recognized", proposal.recognized),
        ("Left out", proposal.left_out),
        ("Please check", proposal.checks),
    ):
        if lines:
            print(f"{title}:")
            print("\n".join(f"  - {line}" for line in lines))
    text = overlay_text(proposal)
    trial = try_overlay(text, proposal.bundle)
    print("Tried:")
    print("\n".join(f"  - {line}" for line in trial.lines))
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}. Choose another place with --output") from None
    needed = "Look through it" if trial.works else "It needs an edit first, as said above"
    print(f"\nWrote {output}. {needed}, then run:\n\n{next_command(proposal.bundle, output)}")
    print(
        "\nIt prints the folder of its results. Open quality.html (a sample of images) and audit.html (counts) there."
    )


def next_command(bundle: str, overlay: Path) -> str:
    """Return the command that prepares the cohort, with paths of the bundle's config and the overlay."""
    root = find_bundle(bundle)
    config = root / "configs" / "prepare.json"
    files = f"['{config}', '{overlay}']"
    command = f"python -W ignore -m monai.bundle run preparing --bundle_root {root} --on_error skip"
    return f'{command} \\\n  --config_file "{files}"'


def overlay_text(proposal: Proposal) -> str:
    """Return a proposed overlay as YAML with comments."""
    lines = [
        "# A cohort, as `medi-monai init` proposes it: please check each line. docs/your_data.md explains them all.",
        "# Use this overlay after the config of each run, from preparing to experiment.",
    ]
    for name, value in proposal.settings.items():
        comment = proposal.comments.get(name)
        lines += [f"# {comment}"] if comment else []
        if isinstance(value, dict) and name in ("mapping", "templates", "columns"):
            lines += [f"{name}:", *(f"  {flow(key)}: {flow(inner)}" for key, inner in value.items())]
        else:
            lines.append(f"{name}: {flow(value)}")
    if proposal.left_out:
        lines += ["# Left out:", *(f"#   {' '.join(line.split())}" for line in proposal.left_out)]
    lines.append("# ckpt_dir: models     # a folder for the models of this cohort, before you train")
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and PLAIN.fullmatch(value) and isinstance(yaml.safe_load(value), str):
        return value
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())
    return json.dumps(value)
