import errno
import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medi_monai.engines.events import EventWriter, event_files


def test_tensorboard_reads_what_was_written(tmp_path):
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with EventWriter(tmp_path) as writer:
        writer.add_scalar("loss", np.float32(0.5), 3)
        writer.add_scalar("loss", 0.25, 4)
        writer.add_image("samples", image, 4)
        # nothing is kept back
        events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.5), (4, 0.25)]
    assert [event.step for event in events.Images("samples")] == [4]


def test_a_file_appears_with_the_first_event_and_only_ours_are_found(tmp_path):
    (tmp_path / "events.out.tfevents.123.of.another.program").touch()
    writer = EventWriter(tmp_path)
    assert event_files(tmp_path) == []
    writer.add_scalar("loss", 1.0, 1)
    assert len(event_files(tmp_path)) == 1
    EventWriter(tmp_path).add_scalar("loss", 1.0, 1)
    assert len(event_files(tmp_path)) == 2


def test_a_disk_that_is_full_ends_the_events_with_one_warning(tmp_path, capsys, monkeypatch):
    writer = EventWriter(tmp_path)
    writer.add_scalar("loss", 1.0, 1)

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_file", Full())
    for step in (2, 3):
        writer.add_scalar("loss", 1.0, step)
    assert capsys.readouterr().out.count("No space left on device") == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1]


FULL = """
import resource, signal, sys
from medi_monai.engines.events import EventWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with EventWriter(sys.argv[1]) as writer:
    for step in range(20):
        writer.add_scalar("loss", 1.0, step)
print("went on")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("room", [0, 10, 100, 333])
def test_a_disk_may_fill_at_any_byte(tmp_path, room):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), str(room)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("warning") == 1 and done.stdout.endswith("went on\n"), done.stderr


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, capsys):
    (tmp_path / "file").touch()
    EventWriter(tmp_path / "file" / "folder").add_scalar("loss", 1.0, 1)
    assert "the run goes on without them" in capsys.readouterr().out
