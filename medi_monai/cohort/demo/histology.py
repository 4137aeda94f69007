"""Draw tissue as amounts of hematoxylin and eosin, and render these as the pixels of a scanner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image
from scipy import ndimage

from medi_monai.cohort.demo.profiles import PLAIN, CenterProfile, Preparation, TumorProfile

__all__ = ["draw_stains", "scan", "tumor_of_patient"]

#: spacing of stromal fibers in microns
FIBER_SPACING = 7.5
#: standard deviation of the blur that a scanner's unsharp mask subtracts, in microns
SHARPENING_RADIUS = 1.0


def tumor_of_patient(tumor: TumorProfile, rng: np.random.Generator) -> TumorProfile:
    """Return a patient-specific variant of a tumor, with slightly larger or smaller, denser or sparser nuclei."""
    size, density = np.exp(rng.normal(0, (0.05, 0.10)))
    return replace(tumor, nuclear_diameter=tumor.nuclear_diameter * size, nuclei_per_mm2=tumor.nuclei_per_mm2 * density)


def draw_stains(
    tumor: TumorProfile, size: int, mpp: float, rng: np.random.Generator, preparation: Preparation = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the amounts of hematoxylin and eosin: 0 on glass, about 1 in a nucleus or in dense stroma.

    Args:
        tumor: morphology to draw.
        size: side of the square field in pixels.
        mpp: microns per pixel.
        rng: source of all randomness.
        preparation: fixation and thickness of the section.

    Returns:
        Two ``(size, size)`` float32 arrays.
    """
    tissue = _tissue_outline(size, mpp, rng)
    across = _fiber_phase(size, mpp, rng)
    direction = np.arctan2(*np.gradient(across)) + np.float32(np.pi / 2)
    eosin = _stroma(tumor, size, mpp, across, rng)
    lumina, rings = _lumina(tumor, size, mpp, rng)
    hematoxylin = _nuclei(tumor, preparation, size, mpp, direction, lumina, rings, rng)
    eosin = np.where(lumina, 0.03, preparation.thickness * eosin * (1 - 0.6 * np.clip(hematoxylin, 0, 1)))
    if preparation.thickness > 1:
        # optical densities of nuclei above one another add up
        further = replace(tumor, nuclei_per_mm2=tumor.nuclei_per_mm2 * (preparation.thickness - 1))
        hematoxylin += _nuclei(further, preparation, size, mpp, direction, lumina, [], rng) * ~lumina
    hematoxylin += 0.06 * ~lumina
    return (hematoxylin * tissue).astype(np.float32), (eosin * tissue).astype(np.float32)


def scan(
    hematoxylin: np.ndarray, eosin: np.ndarray, center: CenterProfile, mpp: float, rng: np.random.Generator
) -> np.ndarray:
    """Render stains by the Beer-Lambert law, ``I = white · 10^-(h·H + e·E)``.

    ``H`` and ``E`` are the amounts of stain, ``h`` and ``e`` the optical densities of the center. Slides vary in the
    strength of both stains; the scanner blurs, sharpens by an unsharp mask, and adds noise.

    Args:
        hematoxylin: ``(H, W)`` amounts of hematoxylin.
        eosin: ``(H, W)`` amounts of eosin.
        center: staining and scanner; its preparation is part of the stains.
        mpp: microns per pixel.
        rng: source of all randomness.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    hematoxylin_strength, eosin_strength = np.exp(rng.normal(0, 0.06, 2))
    density = (
        hematoxylin[..., None] * (hematoxylin_strength * np.asarray(center.hematoxylin, np.float32))
        + eosin[..., None] * (eosin_strength * np.asarray(center.eosin, np.float32))
    ).astype(np.float32)
    light = np.asarray(center.white, np.float32) * np.exp(np.float32(-np.log(10)) * density)
    light = ndimage.gaussian_filter(light, (center.blur / mpp, center.blur / mpp, 0))
    if center.sharpening:
        radius = SHARPENING_RADIUS / mpp
        light += np.float32(center.sharpening) * (light - ndimage.gaussian_filter(light, (radius, radius, 0)))
    light += 1.5 * rng.standard_normal((*light.shape[:2], 1), dtype=np.float32)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _tissue_outline(size: int, mpp: float, rng: np.random.Generator) -> np.ndarray:
    # an irregular blob that leaves a rim of glass
    ticks = np.linspace(-1, 1, size, dtype=np.float32)
    aspect = np.float32(rng.uniform(0.9, 1.1))
    radius = np.hypot(ticks * aspect, ticks[:, None] / aspect)
    return 1 / (1 + np.exp((radius + _noise(size, 50 / mpp, 0.10, rng) - 0.86) * 60))


def _fiber_phase(size: int, mpp: float, rng: np.random.Generator) -> np.ndarray:
    # position across the fibers in microns, bent by smooth noise so that their width stays nearly constant
    ticks = np.arange(size, dtype=np.float32) * np.float32(mpp)
    angle = rng.uniform(0, 2 * np.pi)
    straight = ticks * np.float32(np.cos(angle)) + ticks[:, None] * np.float32(np.sin(angle))
    return straight + _noise(size, 40 / mpp, 22, rng)


def _stroma(tumor: TumorProfile, size: int, mpp: float, across: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # wavy fibers; the rest is cytoplasm
    fibers = 0.5 + 0.5 * np.sin((across + _noise(size, 3 / mpp, 1.2, rng)) * np.float32(2 * np.pi / FIBER_SPACING))
    cytoplasm = 0.55 + _noise(size, 1.2 / mpp, 0.09, rng)
    return np.clip(cytoplasm * (1 - 0.6 * tumor.stroma) + tumor.stroma * 0.75 * fibers, 0.05, 1.3)


def _lumina(
    tumor: TumorProfile, size: int, mpp: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[float, float, float]]]:
    # elliptical lumina; `rings` has the center and radius of each, around which its nuclei are placed
    clear = np.zeros((size, size), bool)
    rings: list[tuple[float, float, float]] = []
    count = rng.poisson(tumor.lumina_per_mm2 * (size * mpp / 1000) ** 2)
    for _ in range(count):
        cx, cy = rng.uniform(0, size, 2)
        radius = tumor.lumen_diameter / 2 / mpp * rng.uniform(0.6, 1.3)
        if any(np.hypot(cx - ox, cy - oy) < radius + other + 12 / mpp for ox, oy, other in rings):
            continue
        rings.append((cx, cy, radius))
        window, distance = _ellipse(size, cx, cy, radius, radius * rng.uniform(0.75, 1.0), rng.uniform(0, np.pi))
        clear[window] |= distance < 1
    return clear, rings


def _nuclei(
    tumor: TumorProfile,
    preparation: Preparation,
    size: int,
    mpp: float,
    direction: np.ndarray,
    lumina: np.ndarray,
    rings: list[tuple[float, float, float]],
    rng: np.random.Generator,
) -> np.ndarray:
    amount = np.zeros((size, size), np.float32)
    chromatin = 1 + _noise(size, 0.5 / mpp, 0.15, rng)
    for x, y, angle in _positions(tumor, size, mpp, direction, rings, rng):
        column, row = min(int(x), size - 1), min(int(y), size - 1)
        if lumina[row, column]:
            continue
        radius = tumor.nuclear_diameter / 2 / mpp * np.exp(rng.normal(0, tumor.diameter_spread))
        radius *= 1 - preparation.shrinkage
        stretch = np.sqrt(tumor.elongation * np.exp(rng.normal(0, 0.08)))
        window, distance = _ellipse(size, x, y, radius * stretch, radius / stretch, angle)
        edge = np.clip((1 - distance) * radius * mpp / 0.6, 0, 1)
        edge *= 1 - preparation.clearing * np.clip(1 - distance**2, 0, 1)
        np.maximum(amount[window], rng.uniform(0.8, 1.1) * edge, out=amount[window])
    return amount * chromatin


def _positions(
    tumor: TumorProfile,
    size: int,
    mpp: float,
    direction: np.ndarray,
    rings: list[tuple[float, float, float]],
    rng: np.random.Generator,
) -> list[tuple[float, float, float]]:
    # a jittered grid keeps nuclei apart without a rejection loop; nuclei of a gland surround its lumen
    spacing = 1000 / np.sqrt(tumor.nuclei_per_mm2) / mpp
    ticks = np.arange(spacing / 2, size, spacing)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    grid = np.clip(grid + rng.uniform(-0.42, 0.42, grid.shape) * spacing, 0, size - 1)
    free = np.ones(len(grid), bool)
    placed: list[tuple[float, float, float]] = []
    for cx, cy, radius in rings:
        ring = radius + 0.8 * tumor.nuclear_diameter / mpp
        free &= np.hypot(grid[:, 0] - cx, grid[:, 1] - cy) > ring + 0.9 * tumor.nuclear_diameter / mpp
        count = max(5, int(2 * np.pi * ring * mpp / (1.15 * tumor.nuclear_diameter)))
        for turn in 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.5, count)) / count:
            x, y = cx + ring * np.cos(turn), cy + ring * np.sin(turn)
            if 0 <= x < size and 0 <= y < size:
                placed.append((x, y, turn))
    for x, y in grid[free]:
        local = direction[int(y), int(x)]
        angle = local + rng.normal(0, 0.15) if rng.random() < tumor.alignment else rng.uniform(0, np.pi)
        placed.append((x, y, angle))
    return placed


def _ellipse(
    size: int, cx: float, cy: float, a: float, b: float, angle: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    # window around an ellipse, and the distance of each pixel from the center in units of the radius
    reach = int(np.ceil(max(a, b))) + 2
    x0, x1 = max(0, int(cx) - reach), min(size, int(cx) + reach + 1)
    y0, y1 = max(0, int(cy) - reach), min(size, int(cy) + reach + 1)
    dx, dy = np.arange(x0, x1) - cx, (np.arange(y0, y1) - cy)[:, None]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    return (slice(y0, y1), slice(x0, x1)), np.hypot(along / a, across / b)


def _noise(size: int, smoothness: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    # smooth noise of a given standard deviation; very smooth noise is drawn at low resolution and enlarged
    reduction = max(1.0, smoothness / 3)
    small = int(np.ceil(size / reduction)) + 1
    drawn = rng.standard_normal((small, small), dtype=np.float32)
    drawn = ndimage.gaussian_filter(drawn, smoothness / reduction, mode="wrap")
    drawn = (drawn - drawn.mean()) * np.float32(spread / max(float(drawn.std()), 1e-6))
    if reduction == 1:
        return drawn[:size, :size]
    return np.asarray(Image.fromarray(drawn).resize((size, size), Image.Resampling.BICUBIC))
