"""Simulated studies: everything that another study would draw anew, run through the real probes and their statistics.

A class has a mean, a center a shift, and a combination of the two something of its own; patients differ within a
combination and images within a patient. A generative model draws images of combinations with the right mean but for an
error that each of its trainings makes anew. Everything but the means of the classes is drawn again in each study, so
the mean difference of two arms over many studies is what their intervals are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medi_monai.evaluation.probing import ImageSet, ProbeProtocol
from medi_monai.evaluation.probing.draws import ArmDraw
from medi_monai.evaluation.probing.scoring import Scorer, TestUnits
from medi_monai.evaluation.probing.tables import compare_arms, test_df_of
from medi_monai.results.probing import Comparison, Training

DIM = 8
NULLS = ("halves", "sets", "trainings")


@dataclass(frozen=True)
class Design:
    """Size of a study, and standard deviations in units of that of an image within its patient.

    Args:
        classes, centers: their numbers.
        unseen: number of combinations without training images.
        patients: patients of each combination in training, a quarter of them, at least one, for validation.
        test_patients: patients of each unseen combination.
        images: images of each patient.
        generated: images of each combination in each generated set.
        trainings: trainings of the generative model.
        draws: draws of training patients.
        between_centers, between_combinations, between_patients: what they differ by.
        between_trainings: error of one training for one combination.
        wrong: share of the second arm's images that show another class than was asked for.
    """

    classes: int = 4
    centers: int = 8
    unseen: int = 10
    patients: int = 4
    test_patients: int = 3
    images: int = 8
    generated: int = 22
    trainings: int = 1
    draws: int = 12
    between_centers: float = 1.0
    between_combinations: float = 0.4
    between_patients: float = 0.4
    between_trainings: float = 0.2
    wrong: float = 0.0


#: patients and draws of the demo cohort, with one training and with ten
DEMO = Design()
DEMO_TEN = replace(DEMO, trainings=10)
#: few of everything: eight patients in training and eight tested, three trainings, four draws
FEW = Design(classes=2, centers=4, unseen=4, patients=3, test_patients=2, generated=8, trainings=3, draws=4)


@dataclass(frozen=True)
class World:
    """Means of one study's classes, centers and combinations: ``(K, C, DIM)``."""

    means: np.ndarray
    unseen: frozenset[tuple[int, int]]

    @classmethod
    def draw(cls, design: Design, rng: np.random.Generator) -> World:
        """Draw centers and combinations; as many combinations of each class as possible are unseen."""
        of_classes = 1.2 * np.eye(design.classes, DIM)
        of_centers = design.between_centers * rng.normal(size=(design.centers, DIM))
        own = design.between_combinations * rng.normal(size=(design.classes, design.centers, DIM))
        first = rng.permutation(design.centers)
        unseen = set()
        for number in range(design.unseen):
            turn, label = divmod(number, design.classes)
            unseen.add((label, int(first[(turn - label) % design.centers])))
        return cls(of_classes[:, None] + of_centers[None] + own, frozenset(unseen))


def real_images(world: World, design: Design, rng: np.random.Generator) -> ImageSet:
    """Draw the real images of every combination."""
    rows, features = [], []
    for label, center in np.ndindex(*world.means.shape[:2]):
        tested = (label, center) in world.unseen
        for patient in range(design.test_patients if tested else design.patients):
            mean = world.means[label, center] + design.between_patients * rng.normal(size=DIM)
            features.append(mean + rng.normal(size=(design.images, DIM)))
            in_training = "val" if patient < max(1, design.patients // 4) else "train"
            split = "holdout" if tested else in_training
            name = f"p{label}_{center}_{patient}"
            rows += [(f"{name}_{n}", name, f"c{label}", f"s{center}", split) for n in range(design.images)]
    table = pd.DataFrame(rows, columns=["image", "patient", "label", "center", "split"])
    return ImageSet(np.concatenate(features).astype(np.float32), table)


class Generator:
    """One training of a generative model: its error in each combination."""

    def __init__(self, world: World, design: Design, rng: np.random.Generator) -> None:
        error = design.between_trainings * rng.normal(size=world.means.shape)
        self.means, self.design = world.means + error, design

    def sample(self, rng: np.random.Generator, wrong: float = 0.0, factor: int = 1) -> ImageSet:
        """Draw ``factor`` times the design's number of images of each combination, a share of another class."""
        rows, features = [], []
        count, (classes, centers, _) = factor * self.design.generated, self.means.shape
        for label, center in np.ndindex(classes, centers):
            other = (label + rng.integers(1, classes, size=count)) % classes
            shown = np.where(rng.random(count) < wrong, other, label)
            features.append(self.means[shown, center] + rng.normal(size=(count, DIM)))
            rows += [(f"g{label}_{center}_{n}", f"c{label}", f"s{center}") for n in range(count)]
        table = pd.DataFrame(rows, columns=["image", "label", "center"])
        return ImageSet(np.concatenate(features).astype(np.float32), table)


def generated_arms(world: World, design: Design, null: str, rng: np.random.Generator) -> tuple[ImageSet, ImageSet]:
    """Return the images of two arms that do not differ but by chance: of :data:`NULLS`, for one training.

    ``halves``: two random halves of one set; ``sets``: two sets of one trained model; ``trainings``: of two trainings
    of one recipe. The second arm of ``trainings`` has a share of wrong classes if the design says so.
    """
    model = Generator(world, design, rng)
    if null == "halves":
        both = model.sample(rng, factor=2)
        first = np.zeros(len(both), bool)
        for rows in both.table.groupby(["label", "center"]).indices.values():
            first[rng.permutation(rows)[: design.generated]] = True
        halves = [ImageSet(both.features[half], both.table[half].reset_index(drop=True)) for half in (first, ~first)]
        return halves[0], halves[1]
    other = model if null == "sets" else Generator(world, design, rng)
    return model.sample(rng), other.sample(rng, design.wrong)


def study(design: Design, null: str, seed: int, c_values: Sequence[float] = (0.01, 1.0)) -> dict[str, Comparison]:
    """Run a study, and return the comparison of its two arms for each figure."""
    rng = np.random.default_rng(seed)
    world = World.draw(design, rng)
    real = real_images(world, design, rng)
    sets: dict[str, ImageSet] = {}
    for training in range(design.trainings):
        first, second = generated_arms(world, design, null, rng)
        sets |= {f"first{training}": first, f"second{training}": second}
    protocol = ProbeProtocol({"real": real}, sets, [], "label", ["center"], c_values, seed=seed)
    units = TestUnits.of(real.table.iloc[protocol.test], "label", ["center"], [])
    scorer = Scorer(protocol.labels[protocol.test], units, protocol.classes, 1, 200, seed)
    by_arm: dict[str, list[list[ArmDraw]]] = {}
    for repeat in range(design.draws):
        for outcome in protocol.run(list(sets), repeat):
            training = Training(outcome.num_real, outcome.num_added, outcome.c, outcome.converged)
            draw = ArmDraw(scorer.score(outcome.probabilities, outcome.in_domain_accuracy), training)
            arm, number = outcome.arm.rstrip("0123456789"), int(outcome.arm.lstrip("firstecond"))
            of_arm = by_arm.setdefault(arm, [[] for _ in range(design.trainings)])
            of_arm[number].append(draw)
    return {row.figure: row for row in compare_arms(by_arm, "first", test_df_of(units), margin=0.05)}
