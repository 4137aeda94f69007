"""Write the brain demo cohort: grayscale PNG slices, a table like that of a real FLAIR cohort, and the ground truth."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.demo.brain import AGES, Brain, View, brain_of, draw_slice, view_of
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, cache_dir, read_json, writable_dir, write_json, write_table
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import seed_from

__all__ = ["brain_dataset", "brain_patient_table", "make_brain_cohort"]

#: increased whenever the same seed gives different pixels, so that an old cohort in the cache is not reused
VERSION = 2
#: lesions assigned in turn to patients of increasing age: half of all patients have none
LESION_CYCLE = ("absent", "left", "absent", "right")
#: slices of a patient are evenly spaced between these levels (-1 to 1), each displaced by at most the jitter
LEVELS, LEVEL_JITTER = (-0.6, 0.6), 0.1


def brain_dataset(
    seed: int = 0,
    balanced: bool = False,
    num_patients: int = 1000,
    slices_per_patient: int = 3,
    male_fraction: float = 0.8,
    image_size: int = 64,
) -> Path:
    """Return the folder of a brain demo cohort in the cache (``$MEDI_CACHE``), which is written on first use.

    Args:
        seed: seed of the cohort; another seed gives other patients.
        balanced: whether to return the balanced reference cohort: as many women as men, and none of the patients of
            the imbalanced cohort.
        num_patients: number of patients; see :func:`make_brain_cohort`.
        slices_per_patient: number of slices per patient.
        male_fraction: share of men; ignored if ``balanced``.
        image_size: side of the slices in pixels.
    """
    fraction, name = (0.5, "REFERENCE") if balanced else (male_fraction, "DEMO")
    folder = f"brain_{name.lower()}_v{VERSION}_{num_patients}x{slices_per_patient}_male{fraction:g}"
    root = cache_dir() / f"{folder}_{image_size}px_seed{seed}"
    return make_brain_cohort(root, num_patients, slices_per_patient, fraction, seed, image_size, name)


def make_brain_cohort(
    folder: str | os.PathLike,
    num_patients: int = 1000,
    slices_per_patient: int = 3,
    male_fraction: float = 0.8,
    seed: int = 0,
    image_size: int = 64,
    name: str = "DEMO",
) -> Path:
    """Write a brain demo cohort; an existing cohort is reused, and an interrupted one is completed.

    Args:
        folder: output folder for ``slices/*.png``, ``truth.csv`` (all drawn parameters, per image) and, written last,
            ``slices.csv`` with the columns image, patient, slice, sex, age, lesion and modality.
        num_patients: number of patients; ages are evenly spread, and half of the patients have a lesion.
        slices_per_patient: number of slices per patient, each at a different level.
        male_fraction: share of men in [0, 1]; exact to within one patient overall, for each lesion, and in any age
            range of patients with the same lesion.
        seed: source of all randomness.
        image_size: side of the slices in pixels.
        name: prefix of the patients' names; another name gives other patients.

    Returns:
        ``folder``.

    Raises:
        InputError: for an invalid setting, or a folder that contains a cohort with other settings.
    """
    table = brain_patient_table(num_patients, male_fraction, seed, name)
    if slices_per_patient < 1:
        raise InputError(f"slices_per_patient must be at least 1, not {slices_per_patient}")
    if image_size < 16:
        raise InputError(f"image_size must be at least 16 pixels, not {image_size}")
    root = writable_dir(folder)
    settings = {
        "version": VERSION,
        "num_patients": num_patients,
        "slices_per_patient": slices_per_patient,
        "male_fraction": male_fraction,
        "seed": seed,
        "image_size": image_size,
        "name": name,
    }
    _claim(root, settings)
    if (root / "slices.csv").is_file():
        return root
    patients = table.to_dict("records")
    rows, truth = [], []
    for patient in progress(patients, len(patients), "generating the brain demo cohort", "patient"):
        brain = brain_of(patient["sex"], patient["age"], patient["lesion"], seed_from("demo patient", seed, patient))
        for number, view in enumerate(_views(brain, slices_per_patient), 1):
            image = f"slices/{patient['patient']}_{number}.png"
            _write_slice(root / image, brain, view, image_size)
            rows.append({"image": image, "patient": patient["patient"], "slice": number, **_attributes(patient)})
            truth.append({"image": image, **_truth(brain, view)})
    write_table(root / "truth.csv", pd.DataFrame(truth))
    write_table(root / "slices.csv", pd.DataFrame(rows))
    return root


def brain_patient_table(
    num_patients: int = 1000, male_fraction: float = 0.8, seed: int = 0, name: str = "DEMO"
) -> pd.DataFrame:
    """Return one row per patient with name, sex, age (whole years) and lesion; sex is independent of age and lesion."""
    if num_patients < 1:
        raise InputError(f"num_patients must be at least 1, not {num_patients}")
    if not 0 <= male_fraction <= 1:
        raise InputError(f"male_fraction must be between 0 and 1, not {male_fraction}")
    rng = np.random.default_rng(seed_from("demo brain table", seed, name))
    rank = np.arange(num_patients)
    youngest, oldest = AGES
    age = np.floor(youngest + (oldest + 1 - youngest) * (rank + rng.random(num_patients)) / num_patients).astype(int)
    lesion = np.asarray(LESION_CYCLE)[rank % len(LESION_CYCLE)]
    # men are spread evenly over the patients sorted by lesion, then age, so any consecutive patients have this share of
    # men
    order = np.lexsort((rank, lesion))
    # rounded, because 0.8 * 10 * k may fall short of a whole number
    men = np.floor(np.round(male_fraction * np.arange(num_patients + 1), 9) + 0.5)
    male = np.empty(num_patients, bool)
    male[order] = np.diff(men) > 0
    width = max(4, len(str(num_patients - 1)))
    names = [f"{name}_{seed}_{number:0{width}d}" for number in rng.permutation(num_patients)]
    table = pd.DataFrame(
        {"patient": names, "sex": np.where(male, "male", "female"), "age": age.tolist(), "lesion": lesion}
    )
    return table.sort_values("patient", ignore_index=True)


def _claim(root: Path, settings: dict) -> None:
    # one cohort per folder: files of two cohorts with the same names could be mixed unnoticed
    path = root / "cohort.json"
    if not path.is_file():
        write_json(path, settings)
        return
    earlier = read_json(path)
    if earlier != settings:
        names = [key for key in settings if not isinstance(earlier, dict) or earlier.get(key) != settings[key]]
        raise InputError(
            f"{root} contains a demo cohort with a different {', '.join(names)}; choose another folder or delete it"
        )


def _views(brain: Brain, count: int) -> list[View]:
    levels = np.linspace(*LEVELS, count) if count > 1 else np.zeros(1)
    jitter = np.random.default_rng(seed_from("demo brain levels", brain.seed, count)).uniform(-1, 1, count)
    seeds = [seed_from("demo brain slice", brain.seed, number) for number in range(count)]
    return [view_of(seed, float(level)) for seed, level in zip(seeds, levels + LEVEL_JITTER * jitter)]


def _write_slice(target: Path, brain: Brain, view: View, image_size: int) -> None:
    if target.is_file():
        return
    pixels = draw_slice(brain, view, image_size)
    with atomic_path(target) as path:
        Image.fromarray(pixels).save(path)


def _attributes(patient: dict) -> dict:
    return {"sex": patient["sex"], "age": patient["age"], "lesion": patient["lesion"], "modality": "FLAIR"}


def _truth(brain: Brain, view: View) -> dict:
    # the two seeds reproduce the slice
    drawn, taken = asdict(brain), asdict(view)
    seeds = {"brain_seed": drawn.pop("seed"), "view_seed": taken.pop("seed")}
    return {**seeds, **drawn, **taken}
