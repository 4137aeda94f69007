"""Run the notebooks and store their outputs in them: ``python tutorials/execute.py [NOTEBOOK ...]``.

Output goes to a temporary folder that is removed afterward. Progress bars, warnings and paths of this machine are not
stored. Each notebook records a digest of its sources, by which a test notices that it was changed and not run again.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import io
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from tqdm import tqdm

TUTORIALS = Path(__file__).resolve().parent
#: largest number of colors of a stored picture; more would make the repository grow with every run
COLORS = 128


def source_digest(notebook: NotebookNode) -> str:
    """Return a digest of the code of a notebook, whatever its format."""
    sources = "\n\n".join(ast.unparse(ast.parse(cell.source)) for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def stored(notebook: NotebookNode, *folders: Path) -> NotebookNode:
    """Return an executed notebook as it is stored.

    Args:
        notebook: executed notebook.
        folders: folders whose names are removed from paths in the output.
    """
    notebook.metadata["medi_monai"] = {"sources": source_digest(notebook)}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _stored_output(output, folders))]
    return notebook


def _stored_output(output: NotebookNode, folders: tuple[Path, ...]) -> NotebookNode | None:
    if output.output_type == "stream":
        output.text = _without(output.text, folders)
        # progress bars are written to standard error
        return output if output.name == "stdout" and output.text.strip() else None
    data = output.get("data", {})
    data.pop("image/jpeg", None)
    if "image/png" in data:
        data["image/png"] = _small(data["image/png"])
    for kind in ("text/plain", "text/html"):
        if kind in data:
            data[kind] = _without(data[kind], folders)
    return output


def _without(text: str, folders: tuple[Path, ...]) -> str:
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def _small(png: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        few = picture.convert("RGB").quantize(COLORS)
    stream = io.BytesIO()
    few.save(stream, format="png", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def execute(path: Path) -> None:
    """Run a notebook as a user would, from its folder, and store it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDI_TUTORIAL_OUTPUT"] = str(Path(folder) / "output")
        client = NotebookClient(
            notebook, timeout=None, coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}}
        )
        client.execute()
        nbformat.write(stored(notebook, Path(folder), TUTORIALS.parent), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(TUTORIALS.glob("*.ipynb")))
    for name in tqdm(parser.parse_args().notebooks, "executing notebooks"):
        execute(name.resolve())
