import errno
import os
import subprocess
import sys

import pytest
import torch

from medi_monai.utils.errors import InputError, RunStopped, nearest, report_user_errors, unknown_value, user_error_in


def run(body):
    code = f"from medi_monai.utils.errors import *\nreport_user_errors()\n{body}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_nearest_puts_the_best_spelling_first_whatever_its_case():
    assert nearest("tcga-luda", ["TCGA-UCS", "TCGA-LUAD", "TCGA-LUSC"])[0] == "TCGA-LUAD"


def test_nearest_gives_no_more_than_asked_and_nothing_far():
    assert len(nearest("a1", ["a2", "a3", "a4", "a5"], count=2)) == 2
    assert nearest("Aspen", ["zzzz", "qqq"]) == []


def test_unknown_value_names_value_nearest_allowed_and_remedy():
    error = unknown_value("center", "Brch", ["Aspen", "Birch"], "Train on it first.")
    assert isinstance(error, InputError)
    assert str(error) == ("unknown center 'Brch': did you mean 'Birch'? Known: 'Aspen', 'Birch'. Train on it first.")


def test_unknown_value_shortens_a_long_vocabulary_and_counts_it():
    message = str(unknown_value("site", "??", [f"S{number:03d}" for number in range(40)]))
    assert "40 in total" in message and "'S011'" in message and "'S012'" not in message


def test_unknown_value_says_when_nothing_is_known():
    assert "Known: none" in str(unknown_value("site", "x", []))


@pytest.mark.parametrize("kind", [InputError, RunStopped])
def test_user_error_is_found_below_what_wraps_it(kind):
    meant = kind("the disk is full")
    middle, outer = RuntimeError("config"), RuntimeError("bundle")
    middle.__cause__, outer.__cause__ = meant, middle
    assert user_error_in(outer) is meant


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 TiB for an array with shape (1099511627776,)"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_is_one_line_with_what_helps(error):
    outer = RuntimeError("bundle")
    outer.__cause__ = error
    said = str(user_error_in(outer))
    assert "no memory or no thread is left. Allow more" in said and "\n" not in said


def test_no_folder_for_temporary_files_is_one_line():
    done = run("import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/proc/gone']\ntempfile.mkdtemp()")
    assert done.stderr.startswith("medi_monai: error: no folder for temporary files can be written: set TMPDIR")


def test_a_limit_of_memory_is_one_line(tmp_path):
    code = "import resource, numpy\nresource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)\nnumpy.ones(1 << 40)"
    done = run(code)
    assert done.returncode == 1 and "no memory or no thread is left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_errors_hold_no_user_error():
    assert user_error_in(ValueError("x")) is None
    assert user_error_in(None) is None


def test_a_wrapped_user_error_is_one_line_on_stderr_and_fails_the_program():
    done = run("try:\n    raise InputError('mpp = 700')\nexcept InputError as e:\n    raise RuntimeError('x') from e")
    assert done.stderr == "medi_monai: error: mpp = 700\n"
    assert done.returncode == 1


def test_a_value_with_line_breaks_stays_on_one_line(capsys):
    report_user_errors()
    try:
        sys.excepthook(InputError, InputError("no folder 'a\nb\x1b[31m\u2028Köln'"), None)
    finally:
        sys.excepthook = sys.__excepthook__
    assert capsys.readouterr().err == "medi_monai: error: no folder 'a\\nb\\x1b[31m\\u2028Köln'\n"


def test_any_other_error_keeps_its_traceback():
    done = run("{}['absent']")
    assert "Traceback" in done.stderr and "KeyError: 'absent'" in done.stderr
    assert done.returncode == 1


def test_an_interruption_says_how_to_go_on():
    done = run("raise KeyboardInterrupt")
    assert "repeat the command to resume" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    "refused",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x/a.json"),
        Exception("Error while serializing: I/O error: File too large (os error 27)"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_what_the_system_refuses_is_the_users_to_know_whichever_library_met_it(refused):
    wrapped = RuntimeError("Failed to evaluate")
    wrapped.__cause__ = refused
    message = str(user_error_in(wrapped))
    assert message.startswith("the system refused") and "Free some space" in message
    assert "/x/a.json: No space left" in message or "what the run needs: " in message


@pytest.mark.parametrize(
    "refused",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_no_memory_and_no_threads_are_one_line_with_what_to_lower(refused):
    message = str(user_error_in(refused))
    assert message.startswith("the system refused") and "lower batch_size and num_workers" in message


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone", "x"), Exception("(os error 2)"), RuntimeError("pos")])
def test_other_errors_of_the_system_keep_their_traceback(error):
    assert user_error_in(error) is None


def test_a_path_of_thousands_of_characters_is_shortened_in_what_the_system_refused():
    message = str(user_error_in(OSError(errno.ENOSPC, "No space left on device", "x/" * 3000)))
    assert message.startswith("the system refused x/x/") and "…" in message and len(message) < 600
