"""Tables of options for the bundles' docs, from the declarations: ``python -m medi_monai.runs.option_tables``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medi_monai.runs.settings import GROUPS
from medi_monai.runs.workflow import declared
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path
from medi_monai.utils.settings import config_default, words_of

__all__ = ["OPTIONS_PAGE", "main", "options_page"]

#: path of the page, relative to the folder of a bundle
OPTIONS_PAGE = Path("docs") / "options.md"
INTRODUCTION = """# Options

All settings of the bundle's runs. Give a setting as `--name value` on the command line, as a line of an overlay, or as
an argument of `monai.bundle.run`. `null` means no value. This page is generated from the declarations in
`medi_monai/*/settings.py` by `python -m medi_monai.runs.option_tables`.
"""
LONGEST = 60


def options_page(bundle: Path) -> str:
    """Return a Markdown page with tables of all options of a bundle.

    Args:
        bundle: folder of the bundle.
    """
    runs: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for file in sorted((bundle / "configs").glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        groups = [*content.get("settings", []), *content.get("+settings", [])]
        for name, group in declared(groups).items():
            runs.setdefault((name, tuple(group)), []).append(f"`{file.name}`")
    sections = [INTRODUCTION]
    for (name, fields), files in runs.items():
        kind = GROUPS[name]
        title = (kind.__doc__ or name).strip().splitlines()[0].rstrip(".")
        lines = [
            f"## {title}",
            f"In {', '.join(files)}.",
            "",
            "| Option | Default | Value | Meaning |",
            "|---|---|---|---|",
        ]
        for field in fields:
            info = kind.model_fields[field]
            cells = (f"`{field}`", _shown(config_default(info)), words_of(info), info.description or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _shown(default: Any) -> str:
    if type(default).__name__ == "PydanticUndefinedType":
        return "see the config"
    text = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
    if text.startswith(("$", "@")):
        reference = text.lstrip("$@")
        return f"`{reference}`" if reference.isidentifier() else "see the config"
    return f"`{text}`" if len(text) <= LONGEST else "see the config"


def main(arguments: list[str] | None = None) -> None:
    """Write the options pages of the given bundles, or of all bundles in ``bundles``."""
    given = sys.argv[1:] if arguments is None else arguments
    bundles = [Path(name) for name in given] or sorted(path for path in Path("bundles").glob("*") if path.is_dir())
    if not bundles:
        raise InputError(
            "there is no folder `bundles` here: start in the repository, or give the folders of the bundles"
        )
    for bundle in bundles:
        with atomic_path(bundle / OPTIONS_PAGE) as path:
            path.write_text(options_page(bundle), encoding="utf-8")
        print(f"options: done, the page is {bundle / OPTIONS_PAGE}")


if __name__ == "__main__":
    main()
