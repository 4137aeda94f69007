"""Options and overlays that are wrong."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from random import Random
from typing import Any

from medi_monai.runs.settings import GROUPS
from medi_monai.runs.workflow import declared
from tests.faults.cases import ANY, REFUSED, REFUSED_OR_SAME, Change
from tests.faults.recipes import RECIPES, Recipe

ROOT = Path(__file__).parents[3]
BUNDLES = {"pathology": "pathology_medi_diffusion", "brain": "brain_mri_fair_text_diffusion"}
#: as typed on a command line; none is a sensible value of many options
VALUES = [
    "few", "", " ", "-1", "0", "1.5", "-0.0001", "1e308", "1e-308", "nan", "inf", "-inf", "4611686018427387904",
    "1000000000000", "9223372036854775808", "99999999999999999999999", "[]", "{}", "[[]]", "[1,'a']", "{'a': [1]}",
    "null", "None", "true", "'2024'", "@", "@gone", "$", "$1+", "%", "%gone", "#", "::", "a::b", "../..", "/dev/null",
    "/dev/zero", "/proc/self/mem", "~/x", "$HOME/x", "$GONE", "a" * 5000, "ä\u0301\u200b", "a\nb", "\t", "=1+1",
    "<script>alert(1)</script>", "'", '"', "`", "\\", "*", "?", "--", "-", "cuda:99", "cpu", "1,2,3", "a,b",
]  # fmt: skip
HUGE = ["4611686018427387904", "1000000000000", "9223372036854775807", "100000000"]


def config_of(recipe: Recipe, name: str = "") -> Path:
    return ROOT / "bundles" / BUNDLES[recipe.bundle] / "configs" / (name or recipe.config)


def settings_of(recipe: Recipe) -> dict[str, type]:
    """The options of a run, with the class that declares each."""
    groups = declared(json.loads(config_of(recipe).read_text())["settings"])
    return {name: kind for group in groups.values() for name, kind in group.items()}


def options(recipe: Recipe, rng: Random) -> list[Change]:
    """Unknown, misspelled and foreign options; each option with values of other types, out of bounds, huge, empty."""
    own = settings_of(recipe)
    ids = {*own, *json.loads(config_of(recipe).read_text())}
    changes = [
        Change(f"unknown option {name}", options={name: "1"}) for name in ("foo", "max-step", "Seed", "_x", "x#y")
    ]
    names = sorted(own)
    for name in rng.sample(names, min(6, len(names))):
        place = rng.randrange(len(name))
        spelled = rng.choice([name[:place] + name[place + 1 :], name + "s", name[:place] + "x" + name[place:]])
        if spelled not in ids:
            changes.append(Change(f"misspelled option {spelled}", options={spelled: "1"}))
    foreign = sorted({name for group in GROUPS.values() for name in group.model_fields} - ids)
    changes += [Change(f"option of another run {name}", options={name: "1"}) for name in rng.sample(foreign, 4)]
    for name in names:
        for value in rng.sample(VALUES, 3):
            shown = value if len(value) < 40 else f"{value[:10]}… ({len(value)} characters)"
            changes.append(Change(f"{name} = {shown!r}", ANY, options={name: value}))
        if _is_number(own[name], name):
            value = rng.choice(HUGE)
            changes.append(Change(f"{name} = {value} (huge)", ANY, options={name: value}))
    sections = [name for name, value in json.loads(config_of(recipe).read_text()).items() if isinstance(value, dict)]
    for name in sections:
        changes.append(Change(f"{name} = 3 (a section)", ANY, options={name: "3"}))
        changes.append(Change(f"{name}#gone (an id of a section)", options={f"{name}#gone#x": "3"}))
    others = [other for other in RECIPES.values() if other.bundle == recipe.bundle and other.run != recipe.run]
    changes.append(Change("run id of another config", run_id=rng.choice(others).run))
    changes.append(Change("misspelled run id", run_id=recipe.run[:-1]))
    return changes


def _is_number(kind: Any, name: str) -> bool:
    text = str(kind.model_fields[name].annotation)
    return "int" in text or "float" in text or typing.get_origin(kind.model_fields[name].annotation) is int


def overlays(recipe: Recipe, rng: Random) -> list[Change]:
    """Overlays that are broken, hold what no run knows, or come in other encodings."""
    own = sorted(settings_of(recipe))
    right = json.dumps({"seed": 0} if "seed" in own else {own[0]: None}) if "seed" in own else "{}"
    name, value = rng.choice(own), rng.choice(VALUES[:30])
    wrong: list[tuple[str, str, bytes, str]] = [
        ("no mapping", "o.yaml", b"- a\n- b\n", REFUSED),
        ("a number", "o.yaml", b"5\n", REFUSED),
        ("empty", "o.yaml", b"", ANY),
        ("only a remark", "o.yaml", b"# nothing\n", ANY),
        ("open bracket", "o.yaml", b"channels: [1, 2\n", REFUSED),
        ("tab", "o.yaml", b"image_size:\n\t- 3\n", REFUSED),
        ("open quote", "o.yaml", b"label: 'x\n", REFUSED),
        ("two documents", "o.yaml", b"a: 1\n---\nb: 2\n", REFUSED),
        ("unknown tag", "o.yaml", b"seed: !!python/object:os.system x\n", REFUSED),
        ("anchor of nothing", "o.yaml", b"seed: *gone\n", REFUSED),
        ("anchors that grow", "o.yaml", _growing(), REFUSED),
        ("key twice", "o.yaml", b"seed: 1\nseed: 2\n", ANY),
        ("key of a number", "o.yaml", b"5: 1\n", REFUSED),
        ("key of a list", "o.yaml", b"? [a, b]\n: 1\n", REFUSED),
        ("key null", "o.yaml", b"~: 1\n", REFUSED),
        ("comma at the end", "o.json", b'{"seed": 0,}', REFUSED),
        ("cut JSON", "o.json", b'{"seed"', REFUSED),
        ("JSON list", "o.json", b"[1]", REFUSED),
        ("JSON NaN", "o.json", b'{"mpp": NaN, "tolerance": NaN, "seed": NaN}', REFUSED),
        ("deep", "o.json", b'{"a":' * 5000 + b"1" + b"}" * 5000, REFUSED),
        ("Latin-1", "o.yaml", "label: Größe\n".encode("latin-1"), REFUSED),
        ("UTF-16", "o.yaml", right.encode("utf-16"), REFUSED_OR_SAME),
        ("BOM", "o.json", b"\xef\xbb\xbf" + right.encode(), REFUSED_OR_SAME),
        ("zero bytes", "o.yaml", b"seed: 0\x00\x00\n", REFUSED),
        ("binary", "o.yaml", bytes(range(256)), REFUSED),
        ("other ending", "o.txt", right.encode(), REFUSED),
        ("no ending", "overlay", right.encode(), REFUSED),
        ("unknown id", "o.yaml", b"sheme: 1\n", REFUSED),
        ("expression", "o.yaml", b"seed: $__import__('os').getpid(\n", ANY),
        ("reference to nothing", "o.yaml", b"seed: '@gone'\n", ANY),
        ("reference to itself", "o.yaml", b"seed: '@seed'\n", ANY),
        ("macro", "o.yaml", b"seed: '%gone'\n", ANY),
        ("settings", "o.yaml", b"settings: [gone]\n", REFUSED),
        ("bundle_root", "o.yaml", b"bundle_root: 5\n", ANY),
        ("imports", "o.yaml", b"imports: 5\n", ANY),
        ("run", "o.yaml", b"run: 5\n", ANY),
        ("initialize", "o.yaml", b"initialize: 5\n", ANY),
        ("target of nothing", "o.yaml", b"x: {_target_: gone.Gone}\nseed: '@x'\n", ANY),
        (f"{name} of another type", "o.yaml", f"{name}: {json.dumps(value)}\n".encode(), ANY),
        (f"{name} of a list", "o.yaml", f"{name}: [[1, a], null]\n".encode(), ANY),
        (f"{name} of a mapping", "o.yaml", f"{name}: {{a: {{b: null}}}}\n".encode(), ANY),
        (f"{name} of a date", "o.yaml", f"{name}: 2024-01-01\n".encode(), ANY),
        (f"{name} misspelled", "o.yaml", f"{name}x: 1\n".encode(), REFUSED),
    ]
    changes = [Change(words, expected, overlay=(file, content)) for words, file, content, expected in wrong]
    for words, edit in [
        ("is missing", None),
        ("is a folder", ("make_folder", "o.yaml")),
        ("is a FIFO", ("to_fifo", "o.yaml")),
        ("is a loop of links", ("to_loop", "o.yaml")),
        ("cannot be read", ("permit", "o.yaml", 0)),
    ]:
        before = () if edit is None else (edit,) if edit[0] == "make_folder" else (("write", "o.yaml", b"{}"), edit)
        changes.append(Change(words, edits=before, overlay=("o.yaml", None)))  # type: ignore[arg-type]
    return changes


def _growing() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(lines).encode()
