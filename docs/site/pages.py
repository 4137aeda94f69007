"""Hook of MkDocs: adds pages from outside ``docs``, and makes links between files of the repository links of the site."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: page of the site -> file of the repository that it shows
PAGES = {
    "index.md": "README.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "SECURITY.md",
    **{
        f"bundles/{bundle.name}/{name}": f"bundles/{bundle.name}/docs/{name}"
        for bundle in sorted((ROOT / "bundles").iterdir())
        for name in ("README.md", "options.md")
    },
    **{f"tutorials/{path.stem}.md": f"tutorials/{path.name}" for path in sorted((ROOT / "tutorials").glob("*.ipynb"))},
}
PICTURES = {f"bundles/{path.parents[1].name}/{path.name}": path for path in ROOT.glob("bundles/*/docs/*.png")}
#: file of the repository -> page of the site
URIS = {source: uri for uri, source in PAGES.items()}
#: link or picture of Markdown: its text, its target, and its anchor
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s#]*)(#[^)\s]*)?\)")
CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures from outside ``docs``."""
    for uri, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=_markdown(text) if source.endswith(".ipynb") else text))
    for uri, path in PICTURES.items():
        files.append(File.generated(config, uri, content=path.read_bytes()))
    packages = [
        Path(uri).stem for uri in _uris(config.nav) if uri.startswith("reference/") and uri != "reference/index.md"
    ]
    files.append(File.generated(config, "reference/index.md", content=_overview(packages)))
    for package in packages:
        text = f"# medi_monai.{package}\n\n" + "\n\n".join(f"::: {name}" for name in public_names(package)) + "\n"
        files.append(File.generated(config, f"reference/{package}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page: those to files of the repository that the site does not show become plain text."""
    uri = page.file.src_uri
    source = PAGES.get(uri, f"docs/{uri}")
    known = {file.src_uri for file in files}

    def rewritten(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        wanted = URIS.get(path, path.removeprefix("docs/"))
        if path.startswith("bundles/") and path.endswith(".png"):
            wanted = path.replace("/docs/", "/")
        if wanted not in known:
            if not (ROOT / path).exists():
                return match[0]  # MkDocs reports it
            return text.lstrip("!")[1:-1]
        return f"{text}({posixpath.relpath(wanted, posixpath.dirname(uri) or '.')}{anchor})"

    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(rewritten, part) for number, part in enumerate(parts))


def public_names(package: str) -> list[str]:
    """Return the full names in ``__all__`` of a package, without importing it, in alphabetical order."""
    tree = ast.parse((ROOT / "medi_monai" / package / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [f"medi_monai.{package}.{name}" for name in sorted(ast.literal_eval(node.value), key=str.lower)]
    return []


def _overview(packages: list[str]) -> str:
    rows = []
    for package in packages:
        tree = ast.parse((ROOT / "medi_monai" / package / "__init__.py").read_text(encoding="utf-8"))
        purpose = (ast.get_docstring(tree) or "").partition("\n")[0].replace("``", "`")
        rows.append(f"| [medi_monai.{package}]({package}.md) | {purpose} |")
    head = "# Python API\n\nPackages with functions for your own code. The runs of the bundles are made of them.\n\n"
    return head + "| Package | Contents |\n|---|---|\n" + "\n".join(rows) + "\n"


def _uris(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav or []
    return [uri for item in items for uri in _uris(item)]


def _markdown(notebook: str) -> str:
    """Return a notebook as Markdown, with its stored outputs."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [shown for output in cell["outputs"] if (shown := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        # styles of pandas would show as text
        return re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL).strip()
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""
