"""Draw axial FLAIR-like head slices of known sex, age and lesion.

Sex shifts four measures at once, three of shape and one of relative contrast (:data:`SEX_MEASURES`). The sexes overlap
in each measure and are separable only by the mean of all four; gain, offset, field inhomogeneity, pose and noise have
the same distribution for both, so no single pixel and no mean gray level reveals the sex. Age sets the width of
ventricles and sulci.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from

__all__ = [
    "AGES",
    "LESIONS",
    "SEXES",
    "SEX_MEASURES",
    "Brain",
    "View",
    "brain_of",
    "draw_slice",
    "view_of",
]

SEXES = ("female", "male")
#: hemisphere of the lesion; slices follow the radiological convention (the patient's left is on the image's right)
LESIONS = ("absent", "left", "right")
#: age range of the patients in years
AGES = (20.0, 90.0)

#: center and spread of each measure that depends on sex, and whether it is larger (+1) or smaller (-1) in men
SEX_MEASURES = {
    "axis_ratio": (1.25, 0.043, 1),
    "skull": (0.066, 0.0095, -1),
    "taper": (0.09, 0.036, 1),
    "contrast": (0.36, 0.100, -1),
}
#: distance of each sex from the center, in spreads: of a single measure on average, and of the mean of all measures
SEPARATION, MEAN_SPREAD = 1.8, 0.20

#: gray levels in [0, 1] before the scanner; those of white and gray matter are centered at MATTER
AIR, BONE, FLUID, GROOVE, SCALP, MATTER, TUMOR = 0.02, 0.10, 0.08, 0.13, 0.75, 0.48, 0.98
#: thickness of the cortex, and geometric mean of a head's half length and half width; in half fields of view
CORTEX, HEAD = 0.100, 0.73

Array = np.ndarray


@dataclass(frozen=True)
class Brain:
    """Anatomy of a patient's head; lengths in units of half the field of view.

    Attributes:
        axis_ratio: length of the head divided by its width.
        skull: thickness of the skull.
        taper: fraction by which the head is narrower at the forehead, and wider at the back, than in its middle.
        contrast: difference of gray and white matter, divided by their mean.
        scalp: thickness of the scalp.
        ventricle: half width of the lateral ventricles.
        sulcus: half width of the sulci.
        lesion_x: position of the lesion, toward the right of the image; NaN without a lesion.
        lesion_y: position of the lesion, toward the forehead; NaN without a lesion.
        lesion_radius: radius of the lesion without its edema; NaN without a lesion.
    """

    sex: str
    age: float
    lesion: str
    seed: int
    axis_ratio: float
    skull: float
    taper: float
    contrast: float
    scalp: float
    ventricle: float
    sulcus: float
    lesion_x: float
    lesion_y: float
    lesion_radius: float


@dataclass(frozen=True)
class View:
    """Acquisition of a slice: pose and scanner.

    Attributes:
        level: height of the slice, from -1 (basal ganglia) to 1 (bodies of the ventricles).
        angle: rotation of the head in radians.
        scale: magnification.
        shift_x: shift to the right, in units of half the field of view.
        shift_y: shift upward, in units of half the field of view.
        gain: factor applied to the gray levels.
        offset: constant added to the gray levels, which range from 0 to 1.
        noise: standard deviation of the noise in each coil channel, in gray levels from 0 to 1.
    """

    seed: int
    level: float
    angle: float
    scale: float
    shift_x: float
    shift_y: float
    gain: float
    offset: float
    noise: float


def brain_of(sex: str, age: float, lesion: str, seed: int) -> Brain:
    """Return the anatomy of a patient; everything that sex, age and lesion do not determine is drawn from ``seed``."""
    if sex not in SEXES:
        raise unknown_value("sex of a demo patient", sex, SEXES)
    if lesion not in LESIONS:
        raise unknown_value("lesion of a demo patient", lesion, LESIONS, "It names the hemisphere.")
    if not AGES[0] <= age <= AGES[1]:
        raise InputError(f"a demo patient is {AGES[0]:g} to {AGES[1]:g} years old, not {age}")
    rng = np.random.default_rng(seed_from("demo brain", seed))
    scores = _sex_scores(1 if sex == "male" else -1, rng)
    measures = {
        name: center + spread * direction * score
        for (name, (center, spread, direction)), score in zip(SEX_MEASURES.items(), scores)
    }
    atrophy = (age - AGES[0]) / (AGES[1] - AGES[0])
    measures["scalp"] = rng.uniform(0.030, 0.052)
    measures["ventricle"] = (0.028 + 0.072 * atrophy) * np.exp(0.07 * rng.normal())
    measures["sulcus"] = (0.005 + 0.015 * atrophy) * np.exp(0.10 * rng.normal())
    measures |= dict(zip(("lesion_x", "lesion_y", "lesion_radius"), _place(lesion, rng)))
    return Brain(sex, float(age), lesion, seed, **{name: float(value) for name, value in measures.items()})


def _place(lesion: str, rng: np.random.Generator) -> tuple[float, float, float]:
    # drawn even without a lesion, so that everything else is the same with and without one
    x, y, radius = rng.uniform((0.24, -0.42, 0.11), (0.36, 0.36, 0.17))
    return {"left": (x, y, radius), "right": (-x, y, radius)}.get(lesion, (np.nan, np.nan, np.nan))


def _sex_scores(sign: int, rng: np.random.Generator) -> Array:
    # each score overlaps between the sexes; their mean is bounded, so that together they do not overlap
    scores = rng.normal(size=len(SEX_MEASURES)).clip(-2.5, 2.5)
    mean = SEPARATION + MEAN_SPREAD * np.clip(rng.normal(), -2, 2)
    return scores - scores.mean() + sign * mean


def view_of(seed: int, level: float = 0.0) -> View:
    """Return the pose and scanner of a slice, drawn from ``seed`` and independent of the patient."""
    if not -1 <= level <= 1:
        raise InputError(f"the level of a slice must be between -1 and 1, not {level}")
    rng = np.random.default_rng(seed_from("demo brain view", seed))
    pose = rng.normal(size=3).clip(-2, 2)
    return View(
        seed=seed,
        level=float(level),
        angle=float(np.deg2rad(5) * pose[0]),
        scale=float(rng.uniform(0.88, 1.06) * (1 - 0.05 * max(level, 0.0))),
        shift_x=float(0.035 * pose[1]),
        shift_y=float(0.035 * pose[2]),
        gain=float(rng.uniform(0.70, 1.20)),
        offset=float(rng.uniform(0.0, 0.03)),
        noise=float(rng.uniform(0.012, 0.028)),
    )


def draw_slice(brain: Brain, view: View, image_size: int = 64) -> Array:
    """Draw a slice of a patient as a scanner would show it.

    Args:
        brain: anatomy of the patient.
        view: pose and scanner of the slice.
        image_size: side of the image in pixels, at least 16.

    Returns:
        ``(image_size, image_size)`` uint8, forehead up.
    """
    if image_size < 16:
        raise InputError(f"a demo slice needs a side of at least 16 pixels, not {image_size}")
    # antialiasing: edges are soft over one fine pixel, and 2 x 2 fine pixels are averaged into one
    signal = _tissue(brain, view, 2 * image_size)
    signal = signal.reshape(image_size, 2, image_size, 2).mean(axis=(1, 3))
    return _scan(signal, view)


def _tissue(brain: Brain, view: View, side: int) -> Array:
    # gray levels before the scanner, from the outside in
    edge = 2 / side / view.scale
    x, y = _head_frame(view, side)
    depth, angle, radius = _head(brain, x, y)
    fluid = depth - brain.scalp - brain.skull
    cortex = fluid - 0.008 - brain.sulcus
    groove = _sulci(brain, angle, radius, cortex)
    np.minimum(groove, _fissure(x, y), out=groove)
    ventricles = _ventricles(brain, view, x, y)

    gray, white = MATTER * (1 + brain.contrast / 2), MATTER * (1 - brain.contrast / 2)
    matter = np.full_like(x, white)
    _paint(matter, gray, CORTEX - np.minimum(cortex, groove - brain.sulcus), 1.5 * edge)
    _paint(matter, MATTER * (1 + brain.contrast / 4), -_nuclei(x, y), 3 * edge)
    _add_lesion(matter, brain, view, x, y)

    image = np.full_like(x, AIR)
    _paint(image, SCALP, depth, edge)
    _paint(image, BONE, depth - brain.scalp, edge)
    _paint(image, FLUID, fluid, edge)
    _paint(image, matter, cortex, edge)
    _paint(image, GROOVE, np.minimum(brain.sulcus - groove, cortex), edge)
    _paint(image, FLUID, -ventricles, edge)
    return image


def _paint(image: Array, level: float | Array, inside: Array, edge: float) -> None:
    # replace the gray level where the distance to the border is positive, with a soft edge
    image += (level - image) * np.clip(inside / edge + 0.5, 0, 1)


def _head_frame(view: View, side: int) -> tuple[Array, Array]:
    ticks = ((np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1).astype(np.float32)
    right, up = ticks - view.shift_x, -ticks[:, None] - view.shift_y
    cosine, sine = np.cos(view.angle) / view.scale, np.sin(view.angle) / view.scale
    x, y = cosine * right + sine * up, cosine * up - sine * right
    return x.astype(np.float32), y.astype(np.float32)


def _head(brain: Brain, x: Array, y: Array) -> tuple[Array, Array, Array]:
    # depth under the skin, angle from the forehead and distance from the middle; an egg of constant area
    ratio = np.sqrt(brain.axis_ratio)
    length, width = HEAD * ratio, HEAD / ratio
    along = y / length
    across = x / (width * (1 - brain.taper * np.clip(along, -1, 1)))
    # slightly squarer than an ellipse, as heads are
    reach = np.maximum((np.abs(along) ** 2.3 + np.abs(across) ** 2.3) ** (1 / 2.3), 1e-6)
    return (1 - reach) * HEAD, np.arctan2(across, along), reach * HEAD


def _sulci(brain: Brain, angle: Array, radius: Array, cortex: Array) -> Array:
    # distance to the nearest sulcus: radial lines that start at the surface, bend, and end at different depths
    rng = np.random.default_rng(seed_from("demo brain folds", brain.seed))
    count = int(rng.integers(9, 12))
    turns, depths = [], []
    for side in (-1, 1):
        steps = (np.arange(count) + 0.5 + rng.uniform(-0.28, 0.28, count)) / count
        deep = rng.uniform(0.05, 0.19, count)
        # the lateral fissure
        deep[np.argmin(np.abs(steps - 0.47))] = 0.26
        turns.append(side * np.pi * steps)
        depths.append(deep)
    order = np.argsort(np.concatenate(turns))
    angles, ends = np.concatenate(turns)[order], np.concatenate(depths)[order]
    a, b = rng.uniform(0, 2 * np.pi, 2)
    bent = angle + 0.09 * np.sin(13 * radius + 3 * angle + a) + 0.04 * np.sin(25 * radius - 4 * angle + b)
    fine = np.linspace(-np.pi, np.pi, 1024)
    nearest = np.abs(fine[:, None] - angles).argmin(axis=1)
    bins = np.clip((bent + np.pi) * (1023 / (2 * np.pi)) + 0.5, 0, 1023).astype(np.intp)
    across = np.abs(bent - angles.astype(np.float32)[nearest][bins]) * radius
    beyond = np.maximum(cortex - ends.astype(np.float32)[nearest][bins], 0)
    return np.hypot(across, beyond)


def _fissure(x: Array, y: Array) -> Array:
    # interhemispheric fissure, in front of and behind the corpus callosum
    return np.hypot(x, np.maximum(np.where(y > 0, 0.36 - y, y + 0.40), 0))


def _ventricles(brain: Brain, view: View, x: Array, y: Array) -> Array:
    # distance to two mirrored pairs of horns; at higher levels they merge into two long bodies
    size, up = brain.ventricle, (view.level + 1) / 2
    mirrored = np.abs(x)
    outward = 0.6 * size
    front = _horn(
        mirrored, y, (0.045 + 0.5 * size, 0.06 - 0.12 * up), (0.115 + outward, 0.26 + size), 0.7 * size, size, -0.10
    )
    inner, outer = (0.11 - 0.05 * up + 0.4 * size, -0.16 + 0.08 * up), (0.20 + 0.3 * size, -0.38 - size)
    back = _horn(mirrored, y, inner, outer, size, 0.6 * size, 0.10)
    third = _horn(mirrored, y, (0, 0.03), (0, -0.15), 0.35 * size * (1 - up), 0.35 * size * (1 - up), 0)
    return np.minimum(np.minimum(front, back), third)


def _horn(
    x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], wide: float, narrow: float, bow: float
) -> Array:
    # approximate distance to a line that is bowed to the side and narrows from wide to narrow half width
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    bowed = start[0] + along * dx + bow * along * (1 - along)
    return np.hypot(x - bowed, y - start[1] - along * dy) - (wide + (narrow - wide) * along)


def _nuclei(x: Array, y: Array) -> Array:
    # thalamus and lentiform nucleus on both sides
    mirrored = np.abs(x)
    thalamus = (np.hypot((mirrored - 0.10) / 0.075, (y + 0.08) / 0.11) - 1) * 0.08
    lentiform = (np.hypot((mirrored - 0.24 - 0.12 * y) / 0.06, (y - 0.07) / 0.14) - 1) * 0.06
    return np.minimum(thalamus, lentiform)


def _add_lesion(matter: Array, brain: Brain, view: View, x: Array, y: Array) -> None:
    # a bright core with an irregular outline, in an edema that fades into the white matter
    if brain.lesion == "absent":
        return
    rng = np.random.default_rng(seed_from("demo brain lesion", brain.seed))
    phases = rng.uniform(0, 2 * np.pi, 3)
    dx, dy = x - brain.lesion_x, y - brain.lesion_y
    turn = np.arctan2(dy, dx)
    outline = 1 + sum(0.10 * np.sin((k + 2) * turn + phase) for k, phase in enumerate(phases))
    distance = np.hypot(dx, dy) / outline
    core = brain.lesion_radius * (1 - 0.15 * abs(view.level))
    edema = np.exp(-0.5 * (np.maximum(distance - 0.6 * core, 0) / (0.55 * core)) ** 2)
    matter += (0.72 - matter) * edema * 0.85
    _paint(matter, TUMOR, 0.85 * core - distance, 0.05)


def _scan(signal: Array, view: View) -> Array:
    # coil sensitivity, gain, and the magnitude of a noisy complex signal (Rice)
    rng = np.random.default_rng(seed_from("demo brain noise", view.seed))
    size = len(signal)
    ticks = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = 0.09 * rng.normal(size=4).clip(-2, 2)
    field = tilt[0] * ticks + tilt[1] * ticks[:, None] + tilt[2] * ticks**2 + tilt[3] * ticks[:, None] ** 2
    noise = view.noise * rng.standard_normal((2, size, size), dtype=np.float32)
    magnitude = np.hypot(signal * np.exp(field) * view.gain + noise[0], noise[1]) + view.offset
    return np.clip(np.rint(magnitude * 255), 0, 255).astype(np.uint8)
