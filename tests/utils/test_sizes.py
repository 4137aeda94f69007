import subprocess
import sys
from pathlib import Path

import pytest

from medi_monai.utils.errors import InputError
from medi_monai.utils.sizes import check_disk, check_memory, machine_memory, size_text, time_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (3.2e9, "3.2 GB"), (999, "999 bytes"), (5e20, "500 EB"), (1e25, "10,000,000 EB")],
)
def test_bytes_in_words(num_bytes, text):
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 seconds"),
        (90, "1.5 minutes"),
        (86400 * 3, "3 days"),
        (365.25 * 86400 * 32, "32 years"),
        (365.25 * 86400 * 146e6, "146 million years"),
    ],
)
def test_time_in_words(seconds, text):
    assert time_text(seconds) == text


def test_memory_is_that_of_the_machine():
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < machine_memory() <= total * 1024


def test_what_fits_passes_and_what_does_not_is_refused_with_both_sizes(tmp_path):
    check_memory("batch_size = 1", 1e6, "")
    check_disk("one image", 1000, tmp_path / "not" / "there", "")
    with pytest.raises(
        InputError, match=r"^batch_size = 9: this takes at least 999 PB of memory, and cpu has .*Choose"
    ):
        check_memory("batch_size = 9", 9.99e17, "Choose less.")
    with pytest.raises(InputError, match="^a plan: this takes at least 2 EB on disk, and .* are free in .*Plan fewer"):
        check_disk("a plan", 2e18, tmp_path, "Plan fewer.")


FEW_ADDRESSES = """
import resource, sys
from pathlib import Path
from medi_monai.utils.sizes import check_addresses
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = taken + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
check_addresses()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the size of the address space is read from /proc")
def test_a_limit_of_addresses_that_leaves_a_run_too_few_is_refused():
    done = [
        subprocess.run([sys.executable, "-c", FEW_ADDRESSES, megabytes], capture_output=True, text=True)
        for megabytes in ("200", "2000")
    ]
    assert "InputError: the limit of address space (ulimit -v) is" in done[0].stderr and done[0].returncode
    assert not done[1].returncode, done[1].stderr
