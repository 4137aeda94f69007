"""Errors that users can act on, and the hook that prints them without a traceback."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable
from types import TracebackType

from medi_monai.utils.text import escape_unprintable

__all__ = [
    "InputError",
    "RunStopped",
    "nearest",
    "one_line",
    "refusal_of_system",
    "unknown_value",
    "user_error_in",
    "report_user_errors",
]

#: numbers of system errors that are due to disks, permissions and limits
REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE,
    errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR,
}  # fmt: skip
#: the number of a system error in messages of Rust libraries and of Arrow
NUMBER = re.compile(r"[(\[](?:os error|errno) (\d+)[)\]]")
#: texts with which PyTorch's writer of zip files reports any of these errors
IN_TORCH = ("PytorchStreamWriter", "unexpected pos", "iostream error")
#: messages of Python, PyTorch and Arrow if no memory or thread is left
NO_MEMORY = re.compile(
    r"can't start new thread|can't allocate memory|Cannot allocate memory|malloc of size|out of memory|bad_alloc|"
    # oneDNN, for layers of networks
    "could not create a (primitive|memory object)"
)


#: maximum number of characters of a path in a message
MOST_OF_PATH = 300


class InputError(ValueError):
    """An error in the user's input; the message has the given value, the allowed values, and the remedy."""


class RunStopped(RuntimeError):
    """Raised if a run ends early for a reason that the user should know (loss not finite, interrupted, disk full)."""


def one_line(error: BaseException, most: int | None = None) -> str:
    """Return the message of an error on one line, at most ``most`` characters; its type if it has no message."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(value: object, known: Iterable[object], count: int = 3) -> list[str]:
    """Return the ``count`` known values with the most similar spelling, best first and ignoring case."""
    by_lower: dict[str, str] = {}
    for name in map(str, known):
        by_lower.setdefault(name.lower(), name)
    matches = difflib.get_close_matches(str(value).lower(), list(by_lower), n=count, cutoff=0.5)
    return [by_lower[match] for match in matches]


def unknown_value(kind: str, value: object, known: Iterable[object], remedy: str = "") -> InputError:
    """Return an :class:`InputError` for a value outside a closed list, which suggests the nearest allowed values."""
    names = [str(name) for name in known]
    close = nearest(value, names)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    shown = ", ".join(map(repr, names[:12])) + (f", … ({len(names)} in total)" if len(names) > 12 else "")
    given = repr(str(value)) if len(str(value)) <= 200 else f"{str(value)[:200]!r}…"
    return InputError(f"unknown {kind} {given}: {hint}Known: {shown or 'none'}. {remedy}".strip())


def refusal_of_system(error: BaseException) -> str | None:
    """Return the reason and remedy for an error due to disks, permissions or limits; None for any other error.

    Libraries report such errors as ``OSError``, or as errors of other types with the number or the reason in the text.
    """
    if isinstance(error, MemoryError) or error_number(error) == errno.ENOMEM or NO_MEMORY.search(str(error)):
        return (
            "no memory or no thread is left. Allow more (ulimit, or what the job asks for), or lower batch_size and "
            "num_workers"
        )
    number = error_number(error)
    if number in REFUSALS:
        reason = os.strerror(number)
    elif isinstance(error, RuntimeError) and any(sign in str(error) for sign in IN_TORCH):
        reason = "the disk is full or the folder is not writable"
    else:
        return None
    return f"{reason}. Free some space or choose another folder"


def error_number(error: BaseException) -> int | None:
    """Return the number of a system error, which may also be in the text of a library's error, or None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    number = NUMBER.search(str(error))
    return int(number[1]) if number else None


def user_error_in(error: BaseException | None) -> BaseException | None:
    """Return the first error meant for the user in a chain of causes, because MONAI wraps errors raised in a config.

    Errors due to disks, permissions and limits are converted to a :class:`RunStopped`. None if there is no such error.
    """
    while error is not None:
        if isinstance(error, (InputError, RunStopped)):
            return error
        reason = refusal_of_system(error)
        if reason is not None:
            path = str(getattr(error, "filename", None) or "")
            path = path if len(path) <= MOST_OF_PATH else f"{path[:MOST_OF_PATH]}…"
            return RunStopped(
                f"the system refused{f' {path}' if path else ' what the run needs'}: {reason}, then repeat the command."
            )
        if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
            return RunStopped(
                "no folder for temporary files can be written: set TMPDIR to one that can, then repeat the command"
            )
        error = error.__cause__
    return None


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    meant = user_error_in(error)
    if meant is not None:
        print(f"medi_monai: error: {_one_line(str(meant))}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("medi_monai: interrupted. Finished files are complete; repeat the command to resume.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _one_line(text: str) -> str:
    # a value given by the user may contain line breaks or terminal escape sequences
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda match: repr(match[0])[1:-1], text)


def report_user_errors() -> None:
    """From now on, print user errors as one line on stderr; other errors still print a traceback.

    Characters that the terminal cannot show are printed as escapes.
    """
    escape_unprintable()
    sys.excepthook = _excepthook
