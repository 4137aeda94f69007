"""Protocol of the linear probes: draw training patients, train every arm on them, and test on the holdout."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from medi_monai.cohort.groups import (
    codes_of,
    group_weights,
    half_of_patients,
    lent_rows,
    spread_rows,
    stable_order,
)
from medi_monai.evaluation.probes.blocks import release
from medi_monai.evaluation.probes.heads import fit_balanced_subsets, fit_combat, fit_coral, fit_group_dro
from medi_monai.evaluation.probes.probe import LogisticProbe, Standardizer, choose_probe, fit_path
from medi_monai.evaluation.probing.arms import (
    AUGMENTED,
    BASELINES,
    Arm,
    ImageSet,
    arm_named,
    gathered,
    oversampled_counts,
)
from medi_monai.evaluation.probing.draws import DrawCondition, Outcome
from medi_monai.metrics import balanced_accuracy
from medi_monai.metrics.resampling import draw_patients
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.text import plural

__all__ = ["ProbeProtocol"]

#: largest size in bytes of training features held in memory; larger ones are put in a temporary file
HELD_BYTES = 2 * 2**30
#: alignments of the features of centers by name: functions of features, labels and centers
ALIGNMENTS = {
    "combat": fit_combat,
    "combat_without_class": lambda features, _, centers: fit_combat(features, None, centers),
    "coral": lambda features, _, centers: fit_coral(features, centers),
}
#: number of test rows scored at once
BLOCK = 16_384


class ProbeProtocol:
    """Linear probes on frozen features, with the regularizer chosen only on in-domain validation data.

    Within a repeat, all arms use the same real rows: a bootstrap of the training patients within each combination. The
    same number of images per class is added from each synthetic set: as many as ``ratio`` requests, limited by the set
    with the fewest images of a class, spread evenly over the combinations, and from a bootstrap sample of the set.

    Args:
        views: image sets of the real rows, ``real`` and any alternatives to it, with the same rows in the same order.
        synthetic: synthetic image sets by arm.
        augmented: features of stain-augmented copies of the real rows, one array per copy.
        label: column of the class.
        attributes: columns that form a combination with the label; the first is the center.
        c_values: values of C to choose from.
        seed: seed of all draws.
        device: device of the fits.
        derived: image sets made of the real or synthetic images by arm. An arm adds as many of them per class as arms
            of synthetic images add, or as ``ratio`` requests if there are none; these sets do not limit the number for
            other arms. With a column ``patient``, images of validation and test patients are not added.
        variants: further arms by name, with any of these sets.

    Raises:
        InputError: for inconsistent sets, an empty split, a missing patient, or patients in two splits.

    Attributes:
        train: row numbers of the training split, sorted by image name like ``val`` and ``test``, so that draws do not
            depend on the order of the rows.
        test: row numbers of the holdout whose class has training images; the other ``num_untrained`` rows are left out,
            because no arm can predict their class.
    """

    def __init__(
        self,
        views: Mapping[str, ImageSet],
        synthetic: Mapping[str, ImageSet],
        augmented: Sequence[ImageSet],
        label: str,
        attributes: Sequence[str],
        c_values: Sequence[float],
        seed: int = 0,
        device: str = "cpu",
        derived: Mapping[str, ImageSet] | None = None,
        variants: Mapping[str, Arm] | None = None,
    ) -> None:
        self.views, self.synthetic, self.augmented = dict(views), dict(synthetic), list(augmented)
        self.sets, self.variants = {**self.synthetic, **(derived or {})}, dict(variants or {})
        self.label, self.attributes, self.c_values = label, tuple(attributes), tuple(c_values)
        self.seed, self.device = seed, device
        table = self.table = views["real"].table
        for name, images in [*self.views.items(), *((AUGMENTED, copy) for copy in self.augmented)]:
            if len(images) != len(table):
                raise InputError(f"the image set {name!r} has {len(images)} rows, the real images have {len(table)}")
        self.labels, names = codes_of(table, [label])
        self.classes = [name[0] for name in names]
        self.groups, self.group_names = codes_of(table, [label, *attributes])
        self.centers = codes_of(table, list(attributes[:1]))[0]
        num_missing = int(missing_cells(table["patient"]).sum())
        if num_missing:
            raise InputError(
                f"{plural(num_missing, 'image has', 'images have')} no patient: complete the column or leave them out"
            )
        self.patients, patients = codes_of(table, ["patient"])
        split, order = table["split"].to_numpy(dtype=str), stable_order(table)
        self.train, self.val, test = (order[split[order] == name] for name in ("train", "val", "holdout"))
        self.test = test[np.isin(self.labels[test], self.labels[self.train])]
        self.num_untrained = len(test) - len(self.test)
        self._check_splits()
        self.orders = {name: stable_order(images.table) for name, images in self.sets.items()}
        self.patients_of = {
            name: codes_of(images.table, ["patient"], patients)[0]
            for name, images in (derived or {}).items()
            if "patient" in images.table
        }
        self.added: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, images in self.sets.items():
            labels, all_names = codes_of(images.table, [label], names)
            if len(all_names) > len(names):
                raise unknown_value(f"class of the arm {name!r}", all_names[-1][0], self.classes)
            self.added[name] = (
                labels,
                codes_of(images.table, [column for column in attributes if column in images.table])[0],
            )

    def _check_splits(self) -> None:
        splits = {"train": self.train, "val": self.val, "holdout": self.test}
        if len(self.train) and self.num_untrained and not len(self.test):
            raise InputError("no image of the split 'holdout' is of a class with training images: check the split")
        for name in ("train", "holdout"):
            if not len(splits[name]):
                raise InputError(f"the split {name!r} has no images: a probe needs training and held-out images")
        for first, second in itertools.combinations(splits, 2):
            shared = np.intersect1d(self.patients[splits[first]], self.patients[splits[second]])
            if len(shared):
                raise InputError(
                    f"{plural(len(shared), 'patient is', 'patients are')} in the splits {first!r} and {second!r}: "
                    "results would be too good. Split the cohort by patient."
                )
        if len(np.unique(self.labels[self.train])) < 2:
            raise InputError("the training split has a single class: a probe needs at least two")

    def arm(self, name: str) -> Arm:
        """Return the arm of this name, after checking that the protocol has its images."""
        arm = self.variants.get(name) or arm_named(name)
        added = ["", *self.sets, *([AUGMENTED] if self.augmented else [])]
        if arm.added not in added or arm.view not in self.views:
            without_images = [key for key, kind in BASELINES.items() if not kind.added and kind.view == "real"]
            raise unknown_value("arm", name, [*without_images, *added[1:]])
        return arm

    def run(self, names: Sequence[str], repeat: int, setting: DrawCondition | None = None) -> Iterator[Outcome]:
        """Train and test arms on the draw of one repeat, and yield their outcomes.

        Args:
            names: names of the arms.
            repeat: number of the repeat, which determines the draw.
            setting: conditions of the draw; by default those of the main comparison.
        """
        setting = setting or DrawCondition()
        arms = {name: self.arm(name) for name in names}
        rows, val = self._draw(repeat, setting)
        classes = np.unique(self.labels[rows])
        per_class = self._images_per_class(len(rows), classes, arms, setting)
        for name, arm in arms.items():
            yield self._outcome(name, arm, rows, val, repeat, per_class, setting)

    def _draw(self, repeat: int, setting: DrawCondition) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed_from("probe draw", self.seed, repeat))
        if setting.real_rows is not None:
            if setting.val_rows is not None:
                return setting.real_rows, setting.val_rows
            return self._lend_validation(setting.real_rows, rng)
        rows, val = self._rows_of_centers(self.train, setting), self._rows_of_centers(self.val, setting)
        if not np.isin(self.labels[val], self.labels[rows]).any():
            rows, val = self._lend_validation(rows, rng)
        rows = rows[draw_patients(self.patients[rows], rng, self.groups[rows])]
        if setting.real_per_class is not None:
            order = rng.permutation(rows)
            by_class = [
                order[self.labels[order] == code][: setting.real_per_class] for code in range(len(self.classes))
            ]
            rows = np.concatenate(by_class)
        return rows, val

    def _rows_of_centers(self, rows: np.ndarray, setting: DrawCondition) -> np.ndarray:
        if setting.centers is None:
            return rows
        return rows[self.table[self.attributes[0]].astype(str).isin(setting.centers).to_numpy()[rows]]

    def _lend_validation(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        lent = lent_rows(self.patients[rows], self.groups[rows], self.labels[rows], rng)
        return rows[~lent], rows[lent]

    def _images_per_class(
        self, num_real: int, classes: np.ndarray, arms: Mapping[str, Arm], setting: DrawCondition
    ) -> int:
        # every synthetic arm gets as many images as the smallest has, whether or not that arm is run
        if not any(arm.added in self.added or arm.ceiling for arm in arms.values()):
            return 0
        sizes = [round(setting.ratio * num_real / len(classes))]
        for name in self.synthetic:
            sizes.append(self._smallest(name, self._allowed(name, setting), classes))
        return min(sizes)

    def _smallest(self, name: str, usable: np.ndarray, classes: np.ndarray) -> int:
        # number of usable images of the class that has the fewest
        return int(np.bincount(self.added[name][0][usable], minlength=len(self.classes))[classes].min())

    def _allowed(self, name: str, setting: DrawCondition) -> np.ndarray:
        table = self.sets[name].table
        if setting.centers is None or self.attributes[0] not in table:
            return np.ones(len(table), bool)
        return table[self.attributes[0]].astype(str).isin(setting.centers).to_numpy()

    def _outcome(
        self,
        name: str,
        arm: Arm,
        rows: np.ndarray,
        val: np.ndarray,
        repeat: int,
        per_class: int,
        setting: DrawCondition,
    ) -> Outcome:
        rng = np.random.default_rng(seed_from("probe arm", self.seed, repeat, name))
        if arm.ceiling:
            return self._ceiling_outcome(name, rows, val, per_class, rng)
        test = self.test if setting.test_rows is None else setting.test_rows
        view = self.views[arm.view].features
        sources, labels = [(view, rows)], [self.labels[rows]]
        if arm.added == AUGMENTED:
            for copy in self.augmented:
                sources.append((copy.features, rows))
                labels.append(self.labels[rows])
        elif arm.added:
            usable = self._allowed(arm.added, setting)
            if arm.added in self.patients_of:
                usable &= ~np.isin(self.patients_of[arm.added], self.patients[np.concatenate([val, test])])
            if arm.filtered:
                usable &= self._recognized(arm.added, rows, val, rng)
            if arm.seen:
                usable &= self._in_training(arm.added)
            chosen = self._added_rows(arm.added, np.unique(self.labels[rows]), per_class, usable, rng)
            sources.append((self.sets[arm.added].features, chosen))
            labels.append(self.added[arm.added][0][chosen])
        targets, weights, num_real = np.concatenate(labels), None, len(rows)
        if arm.oversampled:
            weights = oversampled_counts(self.groups[rows], rng)
            num_real = int(weights.sum())
        elif arm.weighting:
            codes = {"class": self.labels, "group": self.groups}[arm.weighting]
            weights = group_weights(codes[rows])
        tested = (view, np.concatenate([test, val]))
        probe, probabilities = self._fit(arm, sources, targets, weights, val, tested, rng)
        in_domain = self._accuracy(probabilities[len(test) :], val)
        num_added = len(targets) - len(rows)
        return Outcome(name, probabilities[: len(test)], probe.c, num_real, num_added, bool(probe.converged), in_domain)

    def _ceiling_outcome(
        self, name: str, rows: np.ndarray, val: np.ndarray, per_class: int, rng: np.random.Generator
    ) -> Outcome:
        # half of the test patients of every combination are trained on and the others tested, then the other way round
        view, test = self.views["real"].features, self.test
        first = half_of_patients(self.patients[test], self.groups[test], rng)
        probabilities = torch.zeros(len(test), len(self.classes), dtype=torch.float64)
        probes, num_added, in_domain = [], [], []
        for known in (first, ~first):
            if known.all():
                continue
            rows_of_class = [test[known & (self.labels[test] == code)] for code in np.unique(self.labels[test])]
            chosen = [of_class[spread_rows(self.groups[of_class], per_class, rng)] for of_class in rows_of_class]
            added = np.concatenate(chosen)
            targets = self.labels[np.concatenate([rows, added])]
            tested = (view, np.concatenate([test[~known], val]))
            probe, predicted = self._fit(
                BASELINES["real"], [(view, rows), (view, added)], targets, None, val, tested, rng
            )
            probabilities[~known] = predicted[: int((~known).sum())]
            probes.append(probe)
            num_added.append(len(added))
            in_domain.append(self._accuracy(predicted[int((~known).sum()) :], val))
        c = float(np.exp(np.mean([np.log(probe.c) for probe in probes])))
        converged = all(bool(probe.converged) for probe in probes)
        return Outcome(
            name, probabilities, c, len(rows), round(np.mean(num_added)), converged, float(np.mean(in_domain))
        )

    def _accuracy(self, probabilities: torch.Tensor, rows: np.ndarray) -> float:
        confusion = np.zeros((len(self.classes), len(self.classes)))
        np.add.at(confusion, (self.labels[rows], probabilities.argmax(1).numpy()), 1)
        return float(balanced_accuracy(confusion))

    def _recognized(self, name: str, rows: np.ndarray, val: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # whether a probe of the real images predicts the class of each image of a set
        view, features = self.views["real"].features, self.sets[name].features
        sources, tested = [(view, rows)], (features, np.arange(len(features)))
        _, probabilities = self._fit(BASELINES["real"], sources, self.labels[rows], None, val, tested, rng)
        return probabilities.argmax(1).numpy() == self.added[name][0]

    def _in_training(self, name: str) -> np.ndarray:
        # whether the combination of each image of a set has real training images
        table = self.sets[name].table
        columns = [column for column in (self.label, *self.attributes) if column in table]
        known, names = codes_of(self.table.iloc[self.train], columns)
        return codes_of(table, columns, names)[0] < len(names)

    def _added_rows(
        self, name: str, classes: np.ndarray, per_class: int, usable: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        labels, groups = self.added[name]
        per_class = min(per_class, self._smallest(name, usable, classes))
        order = self.orders[name]
        order, chosen = order[usable[order]], []
        for code in classes:
            rows = order[labels[order] == code]
            # another sampling would give other images: each draw has a bootstrap sample of them within combinations
            rows = rows[draw_patients(np.arange(len(rows)), rng, groups[rows])]
            chosen.append(rows[spread_rows(groups[rows], per_class, rng)])
        return np.concatenate(chosen)

    def _fit(
        self,
        arm: Arm,
        sources: Sequence[tuple[np.ndarray, np.ndarray]],
        targets: np.ndarray,
        weights: np.ndarray | None,
        val: np.ndarray,
        tested: tuple[np.ndarray, np.ndarray],
        rng: np.random.Generator,
    ) -> tuple[LogisticProbe, torch.Tensor]:
        view, rows = sources[0]
        large = (len(targets) + len(val)) * view.shape[1] * 4 > HELD_BYTES
        with tempfile.TemporaryDirectory() as folder:
            training = gathered(sources, folder if large else None, "training")
            known = gathered([(view, val)], folder if large else None, "validation")
            maps = ALIGNMENTS[arm.aligned](training, targets, self.centers[rows]) if arm.aligned else None
            if maps is not None:
                maps.apply(training, self.centers[rows])
                maps.apply(known, self.centers[val])
            scale = Standardizer().fit(training)
            scale.transform(training, out=training)
            scale.transform(known, out=known)
            num_classes = len(self.classes)
            labels, c_values, device = self.labels[val], self.c_values, self.device
            if arm.head == "subsets":
                groups = self.groups[rows]
                probes = fit_balanced_subsets(training, targets, groups, num_classes, c_values, rng, device)
                probe, _ = choose_probe(probes, known, labels)
            elif arm.head == "group_dro":
                probes = fit_group_dro(training, targets, self.groups[rows], num_classes, c_values, device)
                probe, _ = choose_probe(probes, known, labels)
            else:
                probe, _ = fit_path(training, targets, num_classes, c_values, known, labels, weights, device)
            del training, known
        view, test = tested
        blocks = [test[start : start + BLOCK] for start in range(0, len(test), BLOCK)]
        by_block = []
        for rows in blocks:
            features = np.array(view[rows], np.float32)
            if maps is not None:
                maps.apply(features, self.centers[rows])
            by_block.append(probe.probabilities(scale.transform(features)))
            release(view)
        return probe, torch.cat(by_block)
