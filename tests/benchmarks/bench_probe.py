"""How long the linear probe takes beside scikit-learn, and a fit on 1 million x 1,024 features read from a file.

    python tests/benchmarks/bench_probe.py [--large --folder FOLDER] [--rows 1000000] [--dim 1024] [--classes 32]

The target: 5,000 x 96 features of 4 classes in under 0.3 seconds, 7 values of C in under 1 second, on one core; the
large fit within 8 GiB. Its peak counts the pages of the feature file that the system keeps in memory. Comparisons are
in seconds of one core, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from medi_monai.evaluation.probes.probe import LogisticProbe, fit_path

CS = [10.0**power for power in range(-3, 4)]


def make_classes(rows: int, dim: int, classes: int, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes with a decaying spectrum, as embeddings have; unit variance, overlapping by ``gap``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    mixing = rng.standard_normal((dim, dim)) * (np.arange(1, dim + 1) ** -0.5)[:, None]
    features = (rng.standard_normal((rows, dim)) + gap * rng.standard_normal((classes, dim))[labels]) @ mixing
    return (features - features.mean(0)) / features.std(0), labels


def compare(rows: int, dim: int, classes: int, gap: float, c: float, oracle: bool = True) -> None:
    """Print the time of our fit, and of scikit-learn's with its default and its tightest tolerance."""
    features, labels = make_classes(rows, dim, classes, gap)
    start = time.process_time()
    probe = LogisticProbe(c).fit(features, labels, classes)
    text = f"{rows:,} x {dim}, {classes} classes, C {c:g}: ours {time.process_time() - start:.3f} s"
    for tolerance in (1e-4, 1e-10) if oracle else (1e-4,):
        start = time.process_time()
        other = LogisticRegression(C=c, tol=tolerance, max_iter=10_000).fit(features, labels)
        seconds = time.process_time() - start
        error = np.abs(other.coef_ - probe.coefficients.numpy()).max()
        text += f" | scikit-learn at {tolerance:g} {seconds:.3f} s, {error:.1e} from ours"
    print(f"{text} | accuracy {other.score(features, labels):.3f}", flush=True)


def compare_paths(rows: int, dim: int, classes: int, gap: float) -> None:
    """Print the time of seven values of C, with scikit-learn's (default tolerance, warm starts) beside it."""
    features, labels = make_classes(rows, dim, classes, gap)
    half = rows // 2
    start = time.process_time()
    best, _ = fit_path(features[:half], labels[:half], classes, CS, features[half:], labels[half:])
    ours = time.process_time() - start
    model = LogisticRegression(tol=1e-4, max_iter=10_000, warm_start=True)
    start = time.process_time()
    for c in CS:
        model.set_params(C=c).fit(features[:half], labels[:half])
        model.predict_proba(features[half:])
    seconds = time.process_time() - start
    print(f"{half:,} x {dim}, {classes} classes, {len(CS)} values of C: ours {ours:.3f} s (best {best.c:g})", end="")
    print(f" | scikit-learn at 0.0001 {seconds:.3f} s", flush=True)


def fit_large(folder: Path, rows: int, dim: int, classes: int, c: float) -> None:
    """Write features to a file, fit on its memory map, and print time and peak memory."""
    path = folder / "features.npy"
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (rows,), generator=generator).numpy()
    centers = torch.randn(classes, dim, generator=generator) * 0.12
    scales = torch.linspace(0.3, 3, dim)
    start = time.perf_counter()
    written = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dim))
    for first in range(0, rows, 8192):
        rows_of_block = slice(first, min(first + 8192, rows))
        noise = torch.randn(rows_of_block.stop - first, dim, generator=generator)
        written[rows_of_block] = ((noise + centers[labels[rows_of_block]]) * scales).numpy()
    written.flush()
    del written
    print(f"wrote {path.stat().st_size / 2**30:.2f} GiB in {time.perf_counter() - start:.0f} s", flush=True)
    features = np.load(path, mmap_mode="r")
    start, busy = time.perf_counter(), time.process_time()
    probe = LogisticProbe(c).fit(features, labels, classes)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    start = time.perf_counter()
    accuracy = float((probe.predictions(features).numpy() == labels).mean())
    print(f"{rows:,} x {dim}, {classes} classes, C {c:g}: {seconds:.0f} s ({busy:.0f} s of a core)", end="")
    print(f", {probe.iterations} Newton steps", end="")
    print(f", converged {probe.converged} (gradient norm {probe.gradient_norm:.1e})", end="")
    print(f", predictions {time.perf_counter() - start:.0f} s (accuracy {accuracy:.3f})")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="the fit from a file alone")
    parser.add_argument("--folder", type=Path, help="where to put the file for a while; the system's by default")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--c", type=float, default=1e-3)
    options = parser.parse_args()
    if options.large:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            fit_large(Path(folder), options.rows, options.dim, options.classes, options.c)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    LogisticProbe().fit(*make_classes(500, 8, 3, 0.1), 3)
    for gap in (0.1, 1.0):
        for c in (1e-2, 1.0):
            compare(5_000, 96, 4, gap, c)
        compare_paths(10_000, 96, 4, gap)
    compare(5_000, 96, 2, 0.1, 1.0)
    compare(5_000, 96, 30, 0.3, 0.1)
    compare(5_000, 1024, 4, 0.1, 0.01)
    compare(100_000, 256, 8, 0.1, 0.1, oracle=False)


if __name__ == "__main__":
    main()
