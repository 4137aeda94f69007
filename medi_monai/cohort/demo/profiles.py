"""Ground truth of the demo cohort: four tumors, eight centers, and the number of patients for each pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "TumorProfile",
    "CenterProfile",
    "Preparation",
    "TUMORS",
    "CENTERS",
    "NUM_PATIENTS",
    "NUM_PATIENTS_BALANCED",
    "PLAIN",
    "SIDE_MICRONS",
    "stain_only",
]


@dataclass(frozen=True)
class TumorProfile:
    """Morphology of one tumor class.

    Diameters are in microns. ``diameter_spread`` is the standard deviation of the logarithm of the nuclear diameter,
    ``elongation`` the ratio of a nucleus's length to its width, ``alignment`` the share of nuclei along the fibers, and
    ``stroma`` the amount of fibrous stroma, from 0 to 1.
    """

    project: str
    nuclei_per_mm2: float
    nuclear_diameter: float
    diameter_spread: float
    elongation: float
    alignment: float
    stroma: float
    lumen_diameter: float
    lumina_per_mm2: float


@dataclass(frozen=True)
class Preparation:
    """Fixation and sectioning of one center; the defaults change nothing.

    Fixation shrinks nuclei: ``shrinkage`` is the loss of nuclear diameter, from 0 to 1. It also clears chromatin:
    ``clearing`` is the loss of hematoxylin in the middle of a nucleus, from 0 to 1; the membrane keeps its stain.
    ``thickness`` is that of the section relative to the thinnest: in a section of 1.2, nuclei of a further 20 % of the
    tissue overlap the others, and there is 20 % more eosin.
    """

    shrinkage: float = 0.0
    clearing: float = 0.0
    thickness: float = 1.0


#: fixation and sectioning that change nothing
PLAIN = Preparation()


@dataclass(frozen=True)
class CenterProfile:
    """Staining, preparation and scanner of one center.

    ``hematoxylin`` and ``eosin`` are optical densities of red, green and blue per unit of stain; ``white`` is the white
    point of the scanner (red, green, blue), ``blur`` the standard deviation of its point spread in microns, and ``mpp``
    its resolution in microns per pixel. ``sharpening`` is the amount of its unsharp mask, and ``quality`` that of its
    JPEG compression, from 1 to 100.
    """

    name: str
    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]
    blur: float
    mpp: float
    preparation: Preparation = PLAIN
    sharpening: float = 0.0
    quality: int = 92


TUMORS = (
    TumorProfile("DEMO-GLAND", 4200, 6.8, 0.12, 1.25, 0.2, 0.20, 16.0, 560),
    TumorProfile("DEMO-SOLID", 3850, 8.0, 0.19, 1.15, 0.0, 0.15, 0.0, 0),
    TumorProfile("DEMO-SPINDLE", 3500, 6.3, 0.14, 2.10, 0.8, 0.55, 0.0, 0),
    TumorProfile("DEMO-SMALL", 5600, 5.9, 0.10, 1.05, 0.0, 0.12, 0.0, 0),
)

#: The two home centers of a tumor have the same mean shrinkage, clearing, thickness, sharpening and quality as those of
#: every other tumor, so that none of these gives the tumor away.
CENTERS = (
    CenterProfile("Aspen", (0.62, 0.66, 0.30), (0.08, 0.52, 0.16), (246, 244, 247), 0.30, 0.50,
                  Preparation(0.00, 0.40, 1.30), 0.2, 92),
    CenterProfile("Birch", (0.80, 0.62, 0.22), (0.16, 0.44, 0.10), (240, 243, 249), 0.45, 0.50,
                  Preparation(0.10, 0.10, 1.25), 0.6, 76),
    CenterProfile("Cedar", (0.46, 0.70, 0.44), (0.06, 0.66, 0.34), (249, 243, 238), 0.35, 0.45,
                  Preparation(0.04, 0.30, 1.05), 0.0, 80),
    CenterProfile("Elm", (0.40, 0.48, 0.26), (0.04, 0.30, 0.16), (250, 248, 246), 0.30, 0.40,
                  Preparation(0.08, 0.15, 1.20), 0.7, 90),
    CenterProfile("Fir", (0.96, 0.92, 0.44), (0.20, 0.70, 0.22), (238, 236, 244), 0.60, 0.50,
                  Preparation(0.12, 0.05, 1.00), 0.8, 72),
    CenterProfile("Hazel", (0.56, 0.56, 0.48), (0.10, 0.46, 0.42), (247, 242, 232), 0.40, 0.46,
                  Preparation(0.02, 0.35, 1.05), 0.4, 88),
    CenterProfile("Maple", (0.72, 0.80, 0.18), (0.05, 0.74, 0.06), (243, 239, 250), 0.30, 0.45,
                  Preparation(0.08, 0.15, 1.25), 1.0, 84),
    CenterProfile("Oak", (0.52, 0.52, 0.16), (0.22, 0.36, 0.05), (236, 242, 243), 0.55, 0.50,
                  Preparation(0.04, 0.30, 1.10), 0.3, 74),
)  # fmt: skip

#: patients per tumor (row) and center (column): each tumor has two home centers and is rare elsewhere
HOME, AWAY = 8, 2
NUM_PATIENTS = np.array(
    [
        [HOME, AWAY, AWAY, AWAY, HOME, AWAY, AWAY, AWAY],
        [AWAY, HOME, AWAY, AWAY, AWAY, HOME, AWAY, AWAY],
        [AWAY, AWAY, HOME, AWAY, AWAY, AWAY, HOME, AWAY],
        [AWAY, AWAY, AWAY, HOME, AWAY, AWAY, AWAY, HOME],
    ]
)

#: patients per tumor and center in the negative control: class and center are independent, so there is no shortcut
BALANCED = 3
NUM_PATIENTS_BALANCED = np.full_like(NUM_PATIENTS, BALANCED)

#: side of a slide in microns by the number of patients: rare pairs of tumor and center also have less tissue per slide
SIDE_MICRONS = {HOME: 512, AWAY: 320, BALANCED: 400}


def stain_only(center: CenterProfile) -> CenterProfile:
    """Return a center that differs from others in staining, white point, blur and resolution alone."""
    return CenterProfile(center.name, center.hematoxylin, center.eosin, center.white, blur=center.blur, mpp=center.mpp)
