"""Training patches recolored to the stains of other centers, for the arms of stain transfer."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.transforms import MapTransform

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import codes_of, spread_rows, stable_order
from medi_monai.cohort.reading import PatchReader
from medi_monai.utils.files import json_digest
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.text import listed
from medi_monai.wsi.stain import thinned
from medi_monai.wsi.transfer import TRANSFERS, StainTransfer

__all__ = ["Recolored", "Recoloring", "num_recolored"]

#: number of patches of a combination, and of evenly spaced pixels of each, from which the stain of its center is
#: estimated, and the number of pixels that these are limited to
NUM_REFERENCES, MAX_PIXELS, MAX_POOLED = 64, 1024, 1 << 16
#: recolored patches as a multiple of those that a draw adds, so that draws differ and can leave out patients
RESERVE = 1.5


@dataclass(frozen=True)
class Recolored:
    """Training patches to recolor.

    Args:
        cohort: one row for each recolored patch: the row of the original, with the center whose stain it gets.
        transform: transform of an item of this cohort, which recolors its ``image``.
        recipe: JSON description of the transform.
    """

    cohort: Cohort
    transform: Recolord
    recipe: Mapping[str, Any]


class Recolord(MapTransform):
    """Recolor the image of each row to the stain of another center.

    Args:
        method: way to transfer stain.
        sources: ``(N,)`` statistics of the own center of each row, for images whose own cannot be estimated.
        targets: ``(N,)`` statistics of the other center of each row.
    """

    def __init__(self, method: StainTransfer, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        super().__init__(("image",))
        self.method, self.sources, self.targets = method, sources, targets

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image, index = np.asarray(data["image"]), data["index"]
        source = self.method.estimate(image) or self.sources[index]
        return {**data, "image": self.method.change(image, source, self.targets[index])}


class Recoloring:
    """Selects training patches of each class, and estimates the stains of the centers that they are recolored to.

    Only images of the training split are used. The stain of a center is estimated for each class from the other classes
    there, as if the class were missing, or from the class itself if there is no other.

    Args:
        real: real images with their split.
        label: column of the class.
        center: column of the center.
        image_size: side of the images in pixels.
        seed: seed of all choices.
    """

    def __init__(self, real: Cohort, label: str, center: str, image_size: int, seed: int) -> None:
        self.center, self.seed = center, seed
        order = stable_order(real.table)
        order = order[(real.table["split"] == "train").to_numpy()[order]]
        self.train = Cohort(real.table.iloc[order].reset_index(drop=True), real.root)
        groups, names = codes_of(self.train.table, [label, center])
        self.rows = {name: np.flatnonzero(groups == code) for code, name in enumerate(names)}
        self.patients = codes_of(self.train.table, ["patient"])[0]
        self.classes, self.centers = (sorted({name[position] for name in names}) for position in (0, 1))
        self.references = self._read(image_size)

    def _read(self, image_size: int) -> dict[tuple[str, ...], np.ndarray]:
        # (3, P) pixels of each combination
        reader, pixels = PatchReader(self.train, image_size), {}
        for name, rows in self.rows.items():
            patches = reader.read(self._spread(rows, NUM_REFERENCES, *name))
            pixels[name] = np.concatenate([thinned(patch.transpose(2, 0, 1), MAX_PIXELS) for patch in patches], axis=1)
        reader.close()
        return pixels

    def _spread(self, rows: np.ndarray, count: int, *purpose: str) -> list[int]:
        rng = np.random.default_rng(seed_from("recoloring", self.seed, *purpose))
        return rows[spread_rows(self.patients[rows], count, rng)].tolist()

    def patches(
        self, method: str, combinations: Collection[tuple[str, str]] | None, per_class: int
    ) -> Recolored | None:
        """Return patches of every class to recolor, or None, with a message, if a class has none.

        Args:
            method: name of a way to transfer stain, in :data:`medi_monai.wsi.transfer.TRANSFERS`.
            combinations: class and center of the recolored patches; those without training images of the class, or of
                the center, are left out. None for each class at each center.
            per_class: number of patches of each class, spread evenly over its combinations; fewer if it has too few.
        """
        stains = self._stains(TRANSFERS[method])
        rows: list[int] = []
        sources, targets = [], []
        for label in self.classes:
            known = [center for center in self.centers if stains[label, center] is not None]
            chosen = [name for name in known if combinations is None or (label, name) in combinations]
            count = math.ceil(per_class / max(len(chosen), 1))
            before = len(rows)
            for center in chosen:
                own = [name for name in known if (label, name) in self.rows]
                elsewhere = [name for name in own if name != center] or own
                pool = np.sort(np.concatenate([np.empty(0, int), *(self.rows[label, name] for name in elsewhere)]))
                picked = self._spread(pool, count, label, center, "sources")
                rows += picked
                targets += [(label, center)] * len(picked)
            if len(rows) == before:
                print(f"no arm of {method} stain transfer: no stain to transfer to patches of {label!r}", flush=True)
                return None
        table = self.train.table.iloc[rows].reset_index(drop=True)
        sources = list(zip([label for label, _ in targets], table[self.center].astype(str)))
        table[self.center] = [center for _, center in targets]
        statistics = {
            " · ".join(name): {key: values.round(6).tolist() for key, values in asdict(stain).items()}
            for name, stain in stains.items()
            if stain is not None
        }
        recipe = {"stain_transfer": method, "digest": json_digest([statistics, sources, targets])}
        transform = Recolord(TRANSFERS[method], [stains[name] for name in sources], [stains[name] for name in targets])
        return Recolored(Cohort(table, self.train.root), transform, recipe)

    def _stains(self, method: StainTransfer) -> dict[tuple[str, str], Any]:
        stains = {}
        for center in self.centers:
            at_center = [label for label in self.classes if (label, center) in self.references]
            for label in self.classes:
                others = [name for name in at_center if name != label] or at_center
                pixels = np.concatenate([self.references[name, center] for name in others], axis=1)
                stains[label, center] = method.estimate(thinned(pixels, MAX_POOLED)[:, :, None])
        unknown = sorted({center for (_, center), stain in stains.items() if stain is None})
        if unknown:
            print(f"no stain of {listed(unknown)} can be estimated: patches are not recolored to it", flush=True)
        return stains


def num_recolored(
    real: Cohort, sampled: Mapping[str, Cohort], label: str, ratio: float, real_per_class: int | None
) -> int:
    """Return how many patches of each class to recolor: more than the arms of a draw add.

    Args:
        real: real images with their split.
        sampled: generated images by arm.
        label: column of the class.
        ratio: number of added images per real image.
        real_per_class: maximum number of real training images per class.
    """
    classes = real.split("train").table[label].astype(str).value_counts()
    counts = [ratio * sum(min(count, real_per_class or count) for count in classes) / len(classes)]
    for images in sampled.values():
        counts.append(images.table[label].astype(str).value_counts().reindex(classes.index, fill_value=0).min())
    return math.ceil(RESERVE * min(counts))
