import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.reading import PatchReader, image_blocks
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi.readers import PixelRules

NUM_SLIDES, SIZE = 5, 32
BACKENDS = ["openslide", pytest.param("cucim", marks=pytest.mark.skipif(not is_installed("cucim"), reason="no cuCIM"))]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Regions of five slides in a random order, at 1.0 microns per pixel from slides of 0.5."""
    root = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    for seed in range(NUM_SLIDES):
        stains = draw_stains(TUMORS[seed % 4], 256, 0.5, rng)
        write_pyramid(root / f"s{seed}.tiff", scan(*stains, CENTERS[seed], 0.5, rng), 0.5)
    rows = [(f"s{seed}.tiff", x, y) for seed in range(NUM_SLIDES) for x in range(0, 193, 64) for y in range(0, 193, 64)]
    table = pd.DataFrame(rows, columns=["image", "x", "y"]).sample(frac=1, random_state=0, ignore_index=True)
    table = table.assign(slide=table["image"], patient=table["image"], mpp="1.0", source_mpp="0.5", split="train")
    return Cohort(table.astype(str), root)


@pytest.fixture(scope="module")
def expected(cohort):
    """The same regions by OpenSlide, from the level of that resolution."""
    slides = {name: openslide.OpenSlide(str(cohort.root / name)) for name in sorted(set(cohort.table["image"]))}
    regions = [
        np.asarray(slides[row.image].read_region((int(row.x), int(row.y)), 1, (SIZE, SIZE)).convert("RGB"))
        for row in cohort.table.itertuples()
    ]
    for slide in slides.values():
        slide.close()
    return np.stack(regions)


def open_slides():
    """Slides that this process has open, by what the system says."""
    paths = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    return [Path(path).name for path in paths if path.endswith(".tiff")]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_open, threads", [(1, 1), (2, 3), (16, None)])
def test_rows_come_in_the_order_asked_for_with_repetitions(cohort, expected, backend, max_open, threads):
    reader = PatchReader(cohort, SIZE, backend, threads, max_open)
    assert len(reader) == len(cohort) and reader.on_the_fly
    for seed in range(3):
        rows = np.random.default_rng(seed).integers(0, len(cohort), 40).tolist()
        assert len(set(rows)) < len(rows)
        assert np.array_equal(np.stack(reader.read(rows)), expected[rows])
    assert np.array_equal(reader.read([7])[0], expected[7]) and reader.read([]) == []
    reader.close()


def test_rows_may_be_a_range_or_an_array(cohort, expected):
    reader = PatchReader(cohort, SIZE)
    assert np.array_equal(np.stack(reader.read(range(3, 9))), expected[3:9])
    assert np.array_equal(np.stack(reader.read(np.array([9, 3, 9]))), expected[[9, 3, 9]])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files there")
@pytest.mark.parametrize("max_open", [1, 2, 4])
def test_no_more_slides_are_open_than_allowed(cohort, expected, max_open):
    before = len(open_slides())
    reader = PatchReader(cohort, SIZE, "openslide", 1, max_open)
    for row in np.random.default_rng(1).permutation(len(cohort)).tolist():
        assert np.array_equal(reader.read([row])[0], expected[row])
        assert len(open_slides()) - before <= max_open
    reader.close()
    assert len(open_slides()) == before


def test_the_slide_used_last_is_kept(cohort, monkeypatch):
    opened = []
    import medi_monai.cohort.reading as module

    original = module.open_slide
    monkeypatch.setattr(
        module,
        "open_slide",
        lambda path, *more, **options: opened.append(path.name) or original(path, *more, **options),
    )
    rows = {name: int(indices[0]) for name, indices in cohort.table.groupby("image").indices.items()}
    reader = PatchReader(cohort, SIZE, max_open=2)
    for name in ("s0.tiff", "s1.tiff", "s0.tiff", "s2.tiff", "s0.tiff", "s1.tiff"):
        reader.read([rows[name]])
    assert opened == ["s0.tiff", "s1.tiff", "s2.tiff", "s1.tiff"]
    # rows of a batch that lie on one slide open it once
    reader = PatchReader(cohort, SIZE, max_open=1)
    opened.clear()
    reader.read(range(len(cohort)))
    assert sorted(opened) == sorted(set(cohort.table["image"]))


@pytest.mark.parametrize("size", [1, 32, 80, 100])
def test_blocks_hold_every_image_once_in_the_order_of_the_rows(cohort, size):
    blocks = list(image_blocks(cohort, SIZE, size))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1) and 1 <= len(blocks[-1]) <= size
    images = torch.cat(blocks)
    assert images.shape == (80, 3, SIZE, SIZE) and images.dtype == torch.uint8
    reader = PatchReader(cohort, SIZE)
    for row, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), reader.read([row])[0])


def test_memory_stays_flat(cohort):
    psutil_free = Path("/proc/self/statm")
    if not psutil_free.is_file():
        pytest.skip("the system does not tell the memory of a process there")
    reader = PatchReader(cohort, SIZE, max_open=2)

    def resident():
        return int(psutil_free.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def read_much():
        for seed in range(40):
            reader.read(np.random.default_rng(seed).integers(0, len(cohort), 20).tolist())

    read_much()
    before = resident()
    read_much()
    assert resident() - before < 20


def test_threads_share_slides_and_take_turns(cohort, expected):
    reader = PatchReader(cohort, SIZE, "openslide", 2, max_open=1)
    batches = [np.random.default_rng(seed).integers(0, len(cohort), 6).tolist() for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for rows, patches in zip(batches, pool.map(reader.read, batches)):
            assert np.array_equal(np.stack(patches), expected[rows])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_by_pickle_opens_slides_of_its_own(cohort, expected, backend):
    reader = PatchReader(cohort, SIZE, backend, max_open=2)
    reader.read([0, 1, 2])
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert np.array_equal(np.stack(copy.read(range(20))), expected[:20])


def _read_into(queue, reader, rows):
    queue.put(np.stack(reader.read(rows)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_process_and_its_parent_do_not_disturb_each_other(cohort, expected, backend):
    reader = PatchReader(cohort, SIZE, backend, 2, max_open=2)
    reader.read(range(20))
    context = get_context("fork")
    queue, hold = context.Queue(), threading.Lock()
    hold.acquire()
    child = context.Process(target=_read_into, args=(queue, reader, list(range(20, 60))), daemon=True)
    # as if another thread of the parent were reading at that moment
    reader._lock.acquire()
    child.start()
    reader._lock.release()
    own = np.stack(reader.read(range(20, 60)))
    read = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(own, expected[20:60]) and np.array_equal(read, expected[20:60])


def test_rows_of_one_slide_may_ask_for_different_resolutions(cohort):
    table = cohort.table[cohort.table["image"] == "s0.tiff"].assign(mpp=lambda rows: ["1.0", "0.5"] * (len(rows) // 2))
    patches = PatchReader(Cohort(table, cohort.root), SIZE).read(range(len(table)))
    with openslide.OpenSlide(str(cohort.root / "s0.tiff")) as slide:
        for row, patch in zip(table.itertuples(), patches):
            level = 1 if row.mpp == "1.0" else 0
            region = slide.read_region((int(row.x), int(row.y)), level, (SIZE, SIZE)).convert("RGB")
            assert np.array_equal(patch, np.asarray(region))


def test_the_resolution_of_the_cohort_goes_before_that_of_the_file(cohort):
    # as a preparation with mpp_conflict "given" leaves it: the file says 0.5, the table knew better
    table = cohort.table.head(1).assign(source_mpp="0.25", x="0", y="0")
    patch = PatchReader(Cohort(table, cohort.root), SIZE).read([0])[0]
    with openslide.OpenSlide(str(cohort.root / table["image"].iloc[0])) as slide:
        assert np.array_equal(patch, np.asarray(slide.read_region((0, 0), 2, (SIZE, SIZE)).convert("RGB")))


def test_files_of_patches_are_read_as_they_are(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    Image.fromarray(images[0]).resize((SIZE, 16)).save(tmp_path / "flat.png")
    table = pd.DataFrame({"image": ["0.png", "1.png", "2.png", "flat.png"], "split": "train"})
    reader = PatchReader(Cohort(table, tmp_path), SIZE)
    assert not reader.on_the_fly
    assert np.array_equal(np.stack(reader.read([2, 0, 2])), images[[2, 0, 2]])
    with pytest.raises(InputError, match="flat.png has 32 x 16 pixels, expected 32"):
        reader.read([0, 3])


def test_what_cannot_be_read_is_named(cohort, tmp_path):
    table = cohort.table.head(2).assign(image=["gone.tiff", "empty.tiff"])
    (tmp_path / "empty.tiff").write_bytes(b"")
    reader = PatchReader(Cohort(table, tmp_path), SIZE)
    for row, name in enumerate(table["image"]):
        with pytest.raises(InputError, match=name):
            reader.read([row])
    outside = cohort.table.head(1).assign(x="250")
    with pytest.raises(InputError, match="extends beyond .*tiff .256 x 256 pixels"):
        PatchReader(Cohort(outside, cohort.root), SIZE).read([0])


def test_settings_that_make_no_sense_are_refused(cohort):
    with pytest.raises(InputError, match="max_open 0"):
        PatchReader(cohort, SIZE, max_open=0)
    with pytest.raises(InputError, match="threads 0"):
        PatchReader(cohort, SIZE, threads=0)
    with pytest.raises(InputError, match="'cucm': did you mean 'cucim'"):
        PatchReader(cohort, SIZE, backend="cucm").read([0])


def test_files_are_read_by_the_rules_that_they_were_prepared_with(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4096, (4, 32, 32), dtype=np.uint16)
    for number, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(4)], "slide": "S", "patient": "P"})
    table = table.assign(x="0", y="0", mpp="1.0", split="train").astype(str)
    reader = PatchReader(Cohort(table, tmp_path), 32)
    with pytest.raises(InputError, match=r"0.png has 16-bit values.*intensity_range, for example \[0, 4095\]"):
        reader.read([0])
    rules = {"cutting": {"pixels": asdict(PixelRules(intensity_range=[0, 4095]))}}
    (tmp_path / "preparation.json").write_text(json.dumps(rules))
    patches = PatchReader(Cohort(table, tmp_path), 32).read(range(4))
    expected = np.rint(values / 4095 * 255)[..., None].repeat(3, axis=3)
    np.testing.assert_array_equal(np.stack(patches), expected)
    # 16 bits that use all of them need no rule
    (tmp_path / "preparation.json").unlink()
    Image.fromarray(values[0] * 16).save(tmp_path / "0.png")
    patch = PatchReader(Cohort(table, tmp_path), 32).read([0])[0]
    np.testing.assert_array_equal(patch, np.rint(values[0] * 16 / 65535 * 255)[..., None].repeat(3, axis=2))
