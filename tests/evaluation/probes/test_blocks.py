"""Blocks of rows of a memory-mapped file: what is read and written stays, and the pages do not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medi_monai.evaluation.probes.blocks import Standardizer, release, row_blocks


def mapped_mib() -> float:
    return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("rows", [slice(None), slice(7, None, 3), slice(None, None, -1)])
def test_pages_that_are_let_go_of_read_as_before(tmp_path, mode, rows):
    values = np.random.default_rng(0).standard_normal((3000, 40))
    np.save(tmp_path / "features.npy", values)
    mapped = np.load(tmp_path / "features.npy", mmap_mode=mode)
    if mode != "r":
        mapped[::2] = values[::2] = 1.5
    for view in (mapped[rows], np.asarray(mapped)[rows]):
        release(view)
        np.testing.assert_array_equal(view, values[rows])
        read = torch.cat([block.clone() for _, block in row_blocks(view, torch.float64)])
        np.testing.assert_array_equal(read, values[rows])
    del mapped, view
    stored = np.load(tmp_path / "features.npy")
    assert (stored == values).all() == (mode != "c")


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
def test_a_file_is_read_and_scaled_without_being_resident(tmp_path):
    rows = np.random.default_rng(0).standard_normal((40_000, 256), np.float32) + 3
    mapped = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, rows.shape)
    mapped[:] = rows
    before = mapped_mib()
    scale = Standardizer().fit(mapped)
    scale.transform(mapped, mapped)
    assert before - mapped_mib() > 30
    np.testing.assert_allclose(mapped, (rows - rows.mean(0, float)) / rows.std(0, dtype=float), atol=1e-5)
