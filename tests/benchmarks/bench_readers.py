"""Patches per second from one large slide: our readers, plain loops over their libraries, and MONAI's data set.

``python tests/benchmarks/bench_readers.py [--patches 4000] [--repeats 3]``

The slide (22,528 x 20,480 pixels, JPEG tiles, levels of 1, 4 and 16) is written first. The arms run in turn within
each repeat, so that a ratio compares neighbors in time; the table gives the median and the median of the ratios.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import tifffile
import torch
from monai.data import DataLoader, PatchWSIDataset
from PIL import Image

from medi_monai.cohort import Cohort, StreamedPatchDataset
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS
from medi_monai.utils.optional import is_installed, quiet_stderr
from medi_monai.wsi.readers import CuCIMReader, OpenSlideReader

WIDTH, HEIGHT, TILE, SIZE, MPP, BATCH = 22528, 20480, 256, 256, 0.25, 64


def write_slide(path: Path) -> None:
    """A slide of 22,528 x 20,480 pixels from one drawn field, turned and mirrored at random."""
    rng = np.random.default_rng(0)
    field = scan(*draw_stains(TUMORS[0], 1024, MPP, rng), CENTERS[0], MPP, rng)
    turns = [np.rot90(side, turn) for side in (field, field[:, ::-1]) for turn in range(4)]
    order = rng.integers(0, len(turns), (HEIGHT // 1024, WIDTH // 1024))
    with tifffile.TiffWriter(path) as file:
        for factor in (1, 4, 16):
            small = [np.asarray(Image.fromarray(turn).reduce(factor)) if factor > 1 else turn for turn in turns]
            side = 1024 // factor

            def tiles(small: list = small, side: int = side) -> Iterator[np.ndarray]:
                rows, columns = -(-HEIGHT * side // 1024 // TILE), -(-WIDTH * side // 1024 // TILE)
                for row in range(rows):
                    band = [np.concatenate([small[turn] for turn in line], 1) for line in order_rows(order, row, side)]
                    strip = np.zeros((TILE, columns * TILE, 3), np.uint8)
                    joined = np.concatenate(band, 0)[(row * TILE) % side if side > TILE else 0 :][:TILE]
                    strip[: len(joined), : joined.shape[1]] = joined
                    yield from (strip[:, c * TILE : (c + 1) * TILE] for c in range(columns))

            file.write(
                tiles(),
                shape=(HEIGHT * side // 1024, WIDTH * side // 1024, 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="jpeg",
                compressionargs={"level": 90},
                subfiletype=0 if factor == 1 else 1,
                resolution=(1e4 / (MPP * factor), 1e4 / (MPP * factor)),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def order_rows(order: np.ndarray, row: int, side: int) -> list[np.ndarray]:
    first, last = row * TILE // side, min(len(order) - 1, ((row + 1) * TILE - 1) // side)
    return [order[line] for line in range(first, last + 1)]


def cohort_of(path: Path, corners: np.ndarray) -> Cohort:
    table = pd.DataFrame({"image": path.name, "slide": "s", "patient": "p", "x": corners[:, 0], "y": corners[:, 1]})
    return Cohort(table.assign(mpp=str(MPP), source_mpp=str(MPP), split="train").astype(str), path.parent)


def arms(path: Path, corners: np.ndarray, workers: int) -> dict[str, Callable[[], int]]:
    """Name -> a function that reads all corners and returns how many it read."""
    loader = {"batch_size": BATCH, "num_workers": workers}
    threads = max(1, workers)

    def ours(backend: str) -> int:
        # as it comes: one process, a thread per core
        dataset = StreamedPatchDataset(cohort_of(path, corners), None, SIZE, backend=backend)
        return sum(len(batch["image"]) for batch in DataLoader(dataset, batch_size=BATCH, num_workers=0))

    def ours_in_workers(backend: str) -> int:
        dataset = StreamedPatchDataset(cohort_of(path, corners), None, SIZE, backend=backend)
        return sum(len(batch["image"]) for batch in DataLoader(dataset, **loader))

    def reader(kind: type) -> int:
        with kind(path) as slide:
            return sum(
                patch.shape[0] == SIZE
                for patch in slide.read_many(corners.tolist(), (SIZE, SIZE), (SIZE, SIZE), threads)
            )

    def plain_openslide() -> int:
        slide = openslide.OpenSlide(str(path))
        return sum(
            len(np.asarray(slide.read_region(tuple(c), 0, (SIZE, SIZE)).convert("RGB"))) == SIZE
            for c in corners.tolist()
        )

    def bare_cucim() -> int:
        from cucim import CuImage

        with quiet_stderr():
            slide = CuImage(str(path))
        batches = slide.read_region(corners.tolist(), (SIZE, SIZE), 0, batch_size=8, num_workers=threads)
        return sum(len(np.array(batch, copy=True).reshape(-1, SIZE, SIZE, 3)) for batch in batches)

    def monai(backend: str) -> int:
        data = [{"image": str(path), "location": corner, "level": 0} for corner in corners[:, ::-1].tolist()]
        dataset = PatchWSIDataset(data, patch_size=SIZE, reader=backend, center_location=False, include_label=False)
        return sum(len(batch["image"]) for batch in DataLoader(dataset, **loader))

    by_name: dict[str, Callable[[], int]] = {
        "ours, reader, OpenSlide": lambda: reader(OpenSlideReader),
        "ours, data set, OpenSlide": lambda: ours("openslide"),
        "ours, data set in workers, OpenSlide": lambda: ours_in_workers("openslide"),
        "plain loop, OpenSlide": plain_openslide,
        "MONAI PatchWSIDataset, OpenSlide": lambda: monai("OpenSlide"),
    }
    if is_installed("cucim"):
        by_name |= {
            "ours, reader, cuCIM": lambda: reader(CuCIMReader),
            "ours, data set, cuCIM": lambda: ours("cucim"),
            "ours, data set in workers, cuCIM": lambda: ours_in_workers("cucim"),
            "bare batch loop, cuCIM": bare_cucim,
            "MONAI PatchWSIDataset, cuCIM": lambda: monai("cuCIM"),
        }
    if workers == 0:
        by_name = {name: arm for name, arm in by_name.items() if "in workers" not in name}
    return by_name


def measure(path: Path, corners: np.ndarray, workers: int, repeats: int) -> pd.DataFrame:
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, arm in arms(path, corners, workers).items():
            start = time.perf_counter()
            if arm() != len(corners):
                raise SystemExit(f"{name} read another number of patches than {len(corners)}")
            rates.setdefault(name, []).append(len(corners) / (time.perf_counter() - start))
    table = pd.DataFrame(rates).T
    result = pd.DataFrame({"patches/s": table.median(axis=1).round(0)})
    for backend in ("OpenSlide", "cuCIM"):
        for base in (f"MONAI PatchWSIDataset, {backend}", f"plain loop, {backend}", f"bare batch loop, {backend}"):
            if base in table.index:
                same = [name for name in table.index if name.endswith(backend)]
                result.loc[same, f"x {base.split(',')[0]}"] = (
                    (table.loc[same] / table.loc[base]).median(axis=1).round(2)
                )
    return result


def memory(path: Path, corners: np.ndarray, count: int) -> None:
    """Peak memory of this process while ``count`` patches are read."""
    for kind in (OpenSlideReader, CuCIMReader) if is_installed("cucim") else (OpenSlideReader,):
        peaks = []
        with kind(path) as slide:
            for seed in range(10):
                chosen = np.random.default_rng(seed).choice(corners, count // 10).tolist()
                for _ in slide.read_many(chosen, (SIZE, SIZE), (SIZE, SIZE), 2):
                    pass
                with open("/proc/self/statm") as file:
                    peaks.append(int(file.read().split()[1]) * resource.getpagesize() / 2**20)
        print(
            f"{kind.__name__}: resident memory in MB after each tenth of {count} patches: {[round(p) for p in peaks]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=50000, help="patches of the memory test; 0 leaves it out")
    parser.add_argument("--folder", help="keeps the slide here and uses it again")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(options.folder or temporary) / "slide.tiff"
        if not path.is_file():
            write_slide(path)
        print(f"{path.stat().st_size / 2**20:.0f} MB, {WIDTH} x {HEIGHT} pixels, patches of {SIZE}, batches of {BATCH}")
        grid = np.stack(np.meshgrid(np.arange(0, WIDTH, SIZE), np.arange(0, HEIGHT, SIZE)), -1).reshape(-1, 2)
        for name, corners in (("on the tiles", grid), ("beside the tiles", grid[: len(grid) - 200] + [100, 60])):
            corners = corners[(corners[:, 0] < WIDTH - SIZE) & (corners[:, 1] < HEIGHT - SIZE)][: options.patches]
            for workers in (0, 2):
                print(f"\n{len(corners)} patches {name}, {workers} workers")
                print(measure(path, corners, workers, options.repeats).to_string())
        if options.memory:
            memory(path, grid[:-200], options.memory)


if __name__ == "__main__":
    main()
