"""Declare typed settings, each once, with its type, range, default and one line of help.

Settings are pydantic models in the ``settings.py`` of ``cohort``, ``engines``, ``alignment``, ``evaluation`` and
``runs``. The config of a run lists its groups of settings under ``settings``. Values from the user are checked against
them before any work, and the tables of options in the bundles' docs are generated from them.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, core_schema

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import check_path_length
from medi_monai.utils.sizes import time_text

__all__ = [
    "Bounds",
    "Component",
    "Count",
    "Counts",
    "Few",
    "Fews",
    "Flag",
    "Flags",
    "Indices",
    "Fraction",
    "Fractions",
    "MappingOf",
    "Number",
    "OneOf",
    "PathText",
    "Paths",
    "Pixels",
    "Rate",
    "Rates",
    "Repeats",
    "Seed",
    "Settings",
    "Text",
    "Texts",
    "Verbatim",
    "Whole",
    "Width",
    "Widths",
    "Words",
    "check_setting",
    "config_default",
    "is_optional",
    "is_recorded",
    "recorded",
    "setting",
    "verbatim",
    "words_of",
]


@dataclass(frozen=True)
class Words:
    """Allowed values of a setting, as shown in errors and tables of options."""

    text: str


@dataclass(frozen=True)
class Verbatim:
    """Marks settings whose values are text (paths, columns, values, templates, prompts), which is passed on unchanged.

    Args:
        path: whether to expand ``~`` or an environment variable at the start, as a shell does.
        component: whether a mapping may be a MONAI component (``_target_``), which MONAI then instantiates.
    """

    path: bool = False
    component: bool = False


def _flag(value: Any) -> Any:
    known = {"true": True, "false": False}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    # values given in Python may be NumPy numbers or tuples, those of a config never are
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if type(value).__module__ == "numpy" and hasattr(value, "tolist") else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _fits_names(value: Any) -> Any:
    if isinstance(value, str):
        check_path_length(value)
    return value


def _named(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if not 1 <= len(items) <= 1000 or not all(isinstance(item, (str, Mapping)) for item in items):
        raise ValueError
    return value


#: upper bound of all counts, rates, weights and sizes
LARGEST = 10**9
_NUMBER = {"strict": True, "allow_inf_nan": False, "le": float(LARGEST)}
_LIST = BeforeValidator(_plain)


_WHOLE = Words("a whole number of 1 or more")
Count = Annotated[int, _LIST, Field(strict=True, ge=1, le=LARGEST), _WHOLE]
Whole = Annotated[int, _LIST, Field(strict=True, ge=0, le=LARGEST), Words("a whole number of 0 or more")]
#: number of things that are all kept in memory: bootstrap samples, folds, timesteps, tokens
Repeats = Annotated[int, _LIST, Field(strict=True, ge=1, le=10**6), _WHOLE]
#: channels and groups of a network, the rank of a matrix, pixels along a side
Width = Annotated[int, _LIST, Field(strict=True, ge=1, le=2**16), _WHOLE]
#: number of layers or processes
Few = Annotated[int, _LIST, Field(strict=True, ge=1, le=1000), _WHOLE]
Pixels = Annotated[int, _LIST, Field(strict=True, ge=1, le=10**12), _WHOLE]
Seed = Annotated[int, _LIST, Field(strict=True, ge=0, lt=2**63), Words("a whole number from 0 to 2**63 - 1")]
Rate = Annotated[float, _LIST, Field(gt=0, **_NUMBER), Words("a number above 0")]
Number = Annotated[float, _LIST, Field(ge=0, **_NUMBER), Words("a number of 0 or more")]
Fraction = Annotated[float, _LIST, Field(strict=True, allow_inf_nan=False, ge=0, le=1), Words("a number from 0 to 1")]
Flag = Annotated[bool, BeforeValidator(_flag), _LIST, Field(strict=True), Words("true or false")]
Text = Annotated[str, Field(strict=True), Verbatim(), Words("text")]
PathText = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(strict=True, pattern=r"\S"),
    AfterValidator(_fits_names),
    Verbatim(path=True),
    Words("a path; if it consists of digits only, start it with ./"),
]
Component = Annotated[
    Any,
    BeforeValidator(_as_text),
    AfterValidator(_named),
    AfterValidator(_fits_names),
    Verbatim(path=True, component=True),
    Words("a path, a name or a mapping; if a path consists of digits only, start it with ./"),
]
_SHORT = Field(strict=True, min_length=1, max_length=1000, fail_fast=True)
_LISTED = Words('a list of whole numbers, such as "[32, 64]"')
Counts = Annotated[list[Count], _SHORT, _LIST, _LISTED]
Widths = Annotated[list[Width], _SHORT, _LIST, _LISTED]
Fews = Annotated[list[Few], _SHORT, _LIST, _LISTED]
Indices = Annotated[
    list[Annotated[int, _LIST, Field(strict=True, ge=0, le=10**6)]],
    _SHORT,
    _LIST,
    Words('a list of indices, such as "[60, 80]"'),
]
Rates = Annotated[list[Rate], _SHORT, _LIST, Words('a list of numbers above 0, such as "[0.1, 1, 10]"')]
Fractions = Annotated[list[Fraction], _SHORT, _LIST, Words('a list of numbers from 0 to 1, such as "[0, 0.5, 1]"')]
Bounds = Annotated[
    list[Annotated[float, _LIST, Field(strict=True, allow_inf_nan=False)]],
    _LIST,
    Field(strict=True, min_length=2, max_length=2),
    Words('two increasing numbers, such as "[0, 4095]"'),
]
Flags = Annotated[list[Flag], _SHORT, _LIST, Words('a list of true and false, one per level, such as "[False, True]"')]
Texts = Annotated[
    list[Text],
    Field(strict=True, max_length=10_000, fail_fast=True),
    _LIST,
    Words("a list of strings, such as \"['Aspen', 'Birch']\"; in YAML, quote numbers and `no`"),
]
Paths = Annotated[dict[str, Any], Field(strict=True), Verbatim(path=True), Words("a mapping from names to folders")]
MappingOf = Annotated[dict[str, Any], Field(strict=True), Verbatim(), Words("a mapping")]


class OneOf(Words):
    """Marks a choice: ``Annotated[str, OneOf("solver", SOLVERS)]``; errors suggest the closest allowed value.

    Args:
        kind: name of the choice in errors.
        known: allowed values.
    """

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        super().__init__("one of " + ", ".join(known))
        object.__setattr__(self, "_kind", kind)
        object.__setattr__(self, "_known", tuple(known))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(strict=True))

    def _check(self, value: str) -> str:
        known: tuple[str, ...] = self._known  # type: ignore[attr-defined]
        if value not in known:
            raise unknown_value(self._kind, value, known)  # type: ignore[attr-defined]
        return value


def setting(default: Any = PydanticUndefined, help: str = "", *, expression: str = "", recorded: bool = False) -> Any:
    """Declare a setting of a :class:`Settings` group.

    Args:
        default: value if none is given.
        help: one line for the table of options.
        expression: MONAI reference or expression that configs contain in place of the default.
        recorded: whether the weights of a model depend on the setting, which is then saved in checkpoints and
            ``model.json``.
    """
    return Field(default, description=help, json_schema_extra={"expression": expression, "recorded": recorded})


class Settings(BaseModel):
    """A group of settings. Subclasses can change defaults: ``class Brain(Training, defaults={"max_steps": 5})``.

    Args:
        given: names of the values that the user gave; by default all of ``values``.
        values: values of settings by name; the others have their defaults.

    Raises:
        InputError: for the first invalid setting, with the given value and the allowed values.
    """

    #: whether all values are known before the run starts; if not, only values given by the user are checked
    at_start: ClassVar[bool] = True
    #: whether a run with these settings trains without scaling its gradients, and therefore not in float16
    unscaled_gradients: ClassVar[bool] = False

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True)

    _given: frozenset[str] = PrivateAttr(frozenset())

    def __init__(self, *, given: Iterable[str] | None = None, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _input_error(type(self), error, values) from None
        self._given = frozenset(values if given is None else given)

    def __init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)

    @classmethod
    def __pydantic_init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        for name, value in (defaults or {}).items():
            cls.model_fields[name].default = value
        if defaults:
            cls.model_rebuild(force=True)

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings given by the user; the others have the values of a config, or defaults."""
        return self._given

    def replaced(self, **values: Any) -> Settings:
        """Return a copy of the group with other values, which are checked."""
        return type(self)(given=self.given | set(values), **{**dict(self), **values})


def _input_error(group: type[Settings], error: ValidationError, values: Mapping[str, Any]) -> InputError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return unknown_value("setting", name, group.model_fields)
    return _wrong(name, values.get(name), group.model_fields[name], error)


def _wrong(name: str, value: Any, field: FieldInfo, error: ValidationError) -> InputError:
    too_large = _too_large(name, value, error)
    if too_large is not None:
        return too_large
    if isinstance(value, str) and value == "null":
        return InputError(f"{name} = 'null': null is not allowed; it has to be {words_of(field)}")
    return InputError(f"{name} = {_short(value)}: it has to be {words_of(field)}")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or value < 10**30 else f"{float(min(value, 10**300)):.0e}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _too_large(name: str, value: Any, error: ValidationError) -> InputError | None:
    for item in error.errors():
        context = item.get("ctx", {})
        if item["type"] == "too_long":
            count, limit = context["actual_length"], context["max_length"]
            return InputError(f"{name}: a list of {count:,} entries is beyond reason; at most {limit:,} are allowed")
        # a count that is spelled 1e12 in a config is a float
        is_count = item["type"] == "int_type" and isinstance(value, float) and LARGEST < value < float("inf")
        is_beyond = item["type"] == "less_than_equal" and context["le"] >= 1000 and item["input"] != float("inf")
        if is_beyond or is_count:
            given, limit = item["input"], context.get("le", LARGEST)
            # no machine trains on, draws or compares a thousand per second
            seconds = min(given, 10**300) // 1000 if limit == LARGEST and (is_count or isinstance(given, int)) else 0
            takes = f": even at a thousand a second, it takes {time_text(seconds)}" if seconds else ""
            return InputError(f"{name} = {_short(given)} is beyond reason{takes}; at most {limit:,.0f} is allowed")
    return None


def _markers(annotation: Any, kind: type) -> list[Any]:
    """Return the markers of one type in an annotation, outermost first."""
    markers = [marker for marker in getattr(annotation, "__metadata__", ()) if isinstance(marker, kind)]
    return markers + [marker for inner in typing.get_args(annotation) for marker in _markers(inner, kind)]


def _field_markers(field: FieldInfo, kind: type) -> list[Any]:
    markers = [marker for marker in field.metadata if isinstance(marker, kind)]
    return markers + _markers(field.annotation, kind)


def verbatim(field: FieldInfo) -> Verbatim | None:
    """Return the :class:`Verbatim` marker of a setting, or None if its value is not text of the user."""
    markers = _field_markers(field, Verbatim)
    return markers[0] if markers else None


def is_optional(field: FieldInfo) -> bool:
    """Return whether null is allowed."""
    return type(None) in typing.get_args(field.annotation) or field.annotation is Any


def words_of(field: FieldInfo) -> str:
    """Return the allowed values of a setting, in words."""
    markers = [marker for marker in field.metadata if isinstance(marker, Words)]
    if markers:
        return markers[0].text
    options = [option for option in typing.get_args(field.annotation) if option is not type(None)]
    texts = [_markers(option, Words)[0].text for option in options or [field.annotation] if _markers(option, Words)]
    return " or ".join(texts) + (", or null" if is_optional(field) else "")


@cache
def _adapter(group: type[Settings], name: str) -> TypeAdapter:
    field = group.model_fields[name]
    annotation: Any = field.annotation
    for marker in field.metadata:
        annotation = Annotated[annotation, marker]
    return TypeAdapter(annotation)


def check_setting(group: type[Settings], name: str, value: Any) -> Any:
    """Check a value against its declaration, and return it normalized (``"true"`` as True, ``"null"`` as None).

    Raises:
        InputError: if the value is invalid; the message has the given value and the allowed values.
    """
    field = group.model_fields[name]
    if isinstance(value, str) and value == "null" and is_optional(field):
        return None
    try:
        return _adapter(group, name).validate_python(value)
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        raise (cause if isinstance(cause, InputError) else _wrong(name, value, field, error)) from None


def config_default(field: FieldInfo) -> Any:
    """Return the value that a setting has in configs unless they change it: a MONAI expression, or the default."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return extra.get("expression") or field.get_default(call_default_factory=True)


def is_recorded(field: FieldInfo) -> bool:
    """Return whether the weights of a model depend on this setting."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("recorded"))


def recorded(groups: Mapping[str, Settings], **more: Any) -> dict[str, Any]:
    """Return the settings that the weights of a model depend on, for its checkpoint and ``model.json``."""
    values = {
        name: getattr(group, name)
        for group in groups.values()
        if isinstance(group, Settings)
        for name, field in type(group).model_fields.items()
        if is_recorded(field)
    }
    return {**values, **more}
