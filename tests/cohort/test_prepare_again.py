"""Preparing again, in a folder that holds something, and by several processes."""

import dataclasses
import os
import shutil
import threading
from multiprocessing import get_context

import pytest
from PIL import Image

from medi_monai.cohort import (
    Cohort,
    Shard,
    SplitScheme,
    default_cohort_dir,
    load_or_prepare,
    prepare,
)
from medi_monai.cohort.extraction import record_folder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, write_json
from medi_monai.utils.tables import read_table
from medi_monai.wsi import PatchGrid

SIDE, BROKEN = 128, "tiles/z_broken.png"


def test_a_repeated_call_does_the_half_done_again_and_nothing_else(
    prepared, data, in_process, preparation, files_in, contents
):
    pixels = contents(prepared.root)
    deleted = record_folder(prepared.root, "tiles/04.png")
    whole = record_folder(prepared.root, "slides/S.tiff")
    half = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(deleted)
    whole.rename(half)
    next(half.glob("000/*")).rename(half / "000" / "patch_7_7.png")
    before = files_in(prepared.root)

    again = prepare(preparation(data), prepared.root, on_error="skip")
    assert again.table.equals(prepared.table)
    assert contents(prepared.root) == pixels
    after = files_in(prepared.root)
    kept = {path for path in before if path in after and half.name not in path.parts}
    changed = {path for path in kept if before[path] != after[path]}
    assert {path.name for path in changed} <= {"problems-0.json"} and len(kept) > 60
    assert deleted.is_dir() and not half.exists()


@pytest.mark.parametrize("patch_format", ["png", "none"])
def test_a_slide_that_was_replaced_is_cut_again_and_no_other(
    data, tmp_path, in_process, capsys, patch_format, tile, preparation, files_in
):
    shutil.copytree(data, tmp_path / "data")
    root, plan = tmp_path / "out", preparation(tmp_path / "data", "labeled.csv", patch_format=patch_format)
    first = prepare(plan, root, on_error="skip")
    before = files_in(root)
    folder = record_folder("", "tiles/04.png")
    Image.fromarray(tile(77, 3 * SIDE)).save(tmp_path / "data/tiles/04.png")
    capsys.readouterr()
    second = prepare(plan, root, on_error="skip")
    assert "1 of the images have changed since they were cut" in capsys.readouterr().out
    sizes = [cohort.table.groupby("slide").size()["tiles/04.png"] for cohort in (first, second)]
    assert sizes == [2, 3]
    changed = {path for path, time in files_in(root).items() if before.get(path) != time}
    assert {path.parts[:3] for path in changed if path.name != "problems-0.json"} == {folder.parts}
    # a record of an older version counts as finished
    record = root / folder / "slide.json"
    write_json(record, {name: value for name, value in read_json(record).items() if name != "fingerprint"})
    Image.fromarray(tile(78)).save(tmp_path / "data/tiles/04.png")
    third = prepare(plan, root, on_error="skip")
    assert third.table.equals(second.table) and "have changed" not in capsys.readouterr().out


def test_a_mended_slide_is_read_by_the_next_call(data, tmp_path, in_process, tile, preparation, files_in):
    shutil.copytree(data, tmp_path / "data")
    assert BROKEN not in set(prepare(preparation(tmp_path / "data"), tmp_path / "out", "skip").table["slide"])
    Image.fromarray(tile(99)).save(tmp_path / "data" / BROKEN)
    before = files_in(tmp_path / "out")
    mended = prepare(preparation(tmp_path / "data"), tmp_path / "out", "skip")
    assert (mended.table["slide"] == BROKEN).sum() == 2
    after = files_in(tmp_path / "out")
    assert all(after[path] == before[path] for path in before if path.name.startswith("patch_"))
    assert BROKEN not in set(read_table(tmp_path / "out" / "rejected.csv")["image"])


def test_several_processes_share_the_work(data, prepared, tmp_path, in_process, preparation, contents):
    barrier, done = threading.Barrier(2), []

    def work(rank):
        shard = Shard(rank, 2, lambda: barrier.wait(60))
        done.append(prepare(preparation(data), tmp_path, "skip", shard=shard))

    ranks = [threading.Thread(target=work, args=(rank,)) for rank in (1, 0)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert len(done) == 2 and all(cohort.table.equals(prepared.table) for cohort in done)
    assert contents(tmp_path) == contents(prepared.root)
    for file in ("cohort.csv", "rejected.csv", "slides.csv"):
        assert (tmp_path / file).read_bytes() == (prepared.root / file).read_bytes()
    # each did its part: the broken tile is the last of 19
    problems = [read_json(tmp_path / "patches" / f"problems-{rank}.json") for rank in (0, 1)]
    assert list(problems[0]) == [BROKEN] and problems[1] == {}


def _at_once(work):
    """Do the work in two processes that begin at the same moment."""
    context = get_context("fork")
    barrier = context.Barrier(2)

    def run():
        barrier.wait(60)
        work()

    runs = [context.Process(target=run, daemon=True) for _ in range(2)]
    for process in runs:
        process.start()
    for process in runs:
        process.join(120)
    assert [process.exitcode for process in runs] == [0, 0]


def test_two_runs_at_once_in_one_folder_leave_what_one_leaves(
    data, prepared, tmp_path, in_process, preparation, contents
):
    _at_once(lambda: prepare(preparation(data), tmp_path, "skip"))
    assert contents(tmp_path) == contents(prepared.root) and Cohort.read(tmp_path).table.equals(prepared.table)
    assert not list(tmp_path.rglob("*.part"))


def test_of_two_that_lack_a_cohort_one_prepares_it(data, prepared, tmp_path, in_process, preparation):
    root, seen = tmp_path / "cohort", tmp_path / "seen"
    seen.mkdir()

    def load():
        cohort = load_or_prepare(preparation(data), root, "skip")
        files = [(root / name).stat().st_ino for name in ("cohort.csv", "quality.parquet", "slides.csv")]
        write_json(seen / f"{os.getpid()}.json", [cohort.digest, *files])

    _at_once(load)
    first, second = map(read_json, sorted(seen.iterdir()))
    # had the second gone through it as well, it would have put other files in the place of those of the first
    assert first == second and first[0] == Cohort.read(root).digest == prepared.digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grid": PatchGrid(32, 1.0)}, r"cutting.grid.image_size: was 64, now 32\)"),
        ({"max_patches_per_slide": 5}, r"\(cutting.max_patches_per_slide: was None, now 5\)"),
        ({"patch_format": "none"}, r"\(cutting.patch_format: was png, now none\)"),
    ],
)
def test_a_folder_prepared_with_other_settings_is_refused_with_what_changed(
    prepared, data, changes, says, preparation, files_in
):
    before = files_in(prepared.root)
    other = preparation(data, **changes)
    with pytest.raises(InputError, match=says):
        prepare(other, prepared.root, on_error="skip")
    assert files_in(prepared.root) == before


def test_a_folder_prepared_with_another_split_is_refused(prepared, data, preparation):
    other = dataclasses.replace(preparation(data), splits=SplitScheme(["tumor"], val_fraction=0.25, seed=1))
    with pytest.raises(InputError, match=r"\(splits.seed: was 0, now 1\)"):
        prepare(other, prepared.root, on_error="skip")


def test_a_folder_with_other_files_is_refused_and_left_alone(data, tmp_path, preparation):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        prepare(preparation(data), tmp_path, on_error="skip")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_prepared_cohort_is_loaded_from_its_folder_or_the_data_sets(prepared, data, tmp_path, preparation, files_in):
    before = files_in(prepared.root)
    assert load_or_prepare(preparation(data), prepared.root).table.equals(Cohort.read(prepared.root).table)
    assert default_cohort_dir(preparation(prepared.root), tmp_path) == str(prepared.root)
    elsewhere = default_cohort_dir(preparation(data), tmp_path)
    assert elsewhere == str(tmp_path / "output" / "preparing" / preparation(data).name)
    assert files_in(prepared.root) == before
