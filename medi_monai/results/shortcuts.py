"""Results of the run ``shortcuts``: the content of ``shortcuts.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from medi_monai.results.diagnostics import CorrelationSweep, Shortcut
from medi_monai.results.figure import Figure
from medi_monai.results.finding import Finding
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.probing import Comparison, RepeatedFigure, TestSet, TrainingSet
from medi_monai.results.typed import Result

__all__ = ["AttributeShortcut", "DomainAccuracy", "FeatureSet", "ShortcutFigures", "ShortcutResults", "UnseenAccuracy"]


class ShortcutFigures(Protocol):
    """Results with shortcut diagnostics of a center: those of the runs ``probing`` and ``shortcuts``."""

    @property
    def label(self) -> str:
        """Column of the class."""

    @property
    def center(self) -> str:
        """Column of the center."""

    @property
    def generated(self) -> tuple[str, ...]:
        """Arms that add generated images to real ones."""

    @property
    def shortcut(self) -> Shortcut:
        """Shortcut diagnostics."""


@dataclass(frozen=True)
class FeatureSet(Result):
    """The features that were analyzed.

    Args:
        path: folder or table of the features.
        unit: what a row of features is: ``patch``, ``slide`` or ``patient``.
        pooling: what features of patches were averaged over: ``none``, ``slides`` or ``patients``.
        n: number of rows.
        slides: number of slides.
        patients: number of patients.
        dim: number of features of a row.
    """

    path: str
    unit: str
    pooling: str
    n: int
    slides: int
    patients: int
    dim: int


@dataclass(frozen=True)
class AttributeShortcut(Result):
    """How strongly an attribute is a shortcut.

    Args:
        association: Cramér's V of class and attribute over all patients, corrected for bias: how strongly the metadata
            couple them.
        shortcut: accuracy of probes for class and attribute, robustness index and clustering score; for the first
            attribute, the center, also accuracy as center and class become correlated.
        missing: number of rows without a value, which are left out.
    """

    association: Figure
    shortcut: Shortcut
    missing: int


@dataclass(frozen=True)
class DomainAccuracy(Result):
    """Balanced accuracy of the probe for the class on one test set."""

    balanced_accuracy: RepeatedFigure
    test: TestSet


@dataclass(frozen=True)
class UnseenAccuracy(Result):
    """Accuracy on new patients of combinations in training, and on combinations that training lacks.

    Args:
        in_domain: accuracy on new patients of combinations (or centers) in training; ``None`` if there are too few.
        unseen: accuracy on combinations (or centers) that are not in training; ``None`` if the split holds out none.
        drop: in-domain accuracy minus accuracy on unseen combinations; ``None`` without one of them.
        training: the training rows.
        split_scheme: scheme of the split, for ``auto`` the one that it chose; ``given`` if the table has the split.
        chance: balanced accuracy expected by chance.
        split_reason: why this scheme, for ``auto``, or the column of the table; otherwise empty.
    """

    in_domain: DomainAccuracy | None
    unseen: DomainAccuracy | None
    drop: Comparison | None
    training: TrainingSet
    split_scheme: str
    chance: float
    split_reason: str = ""


@dataclass(frozen=True)
class ShortcutResults(Result):
    """The content of ``shortcuts.json``.

    Args:
        label: column of the class.
        features: the features that were analyzed.
        label_probe_accuracy: accuracy of a probe for the class, over all rows.
        attributes: figures of each attribute; the first one is the center.
        unseen: accuracy on unseen combinations, and what is lost.
        conclusions: the answer, from these figures by rule; the first one is about the center.
        warnings: what was left out, and limitations of the conclusions.
        settings: resolved settings of the run.
        digests: digests of the features with their metadata, and of everything that determines the draws.
    """

    label: str
    features: FeatureSet
    label_probe_accuracy: ProbeAccuracy
    attributes: Mapping[str, AttributeShortcut]
    unseen: UnseenAccuracy
    conclusions: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    settings: Mapping[str, Any]
    digests: Mapping[str, str]

    @property
    def center(self) -> str:
        """The first attribute, whose combinations with the class are held out."""
        return next(iter(self.attributes))

    @property
    def shortcut(self) -> Shortcut:
        """Figures of the center."""
        return self.attributes[self.center].shortcut

    @property
    def generated(self) -> tuple[str, ...]:
        """Arms with generated images: none."""
        return ()

    @property
    def correlation(self) -> CorrelationSweep:
        """Accuracy as center and class become correlated."""
        return self.shortcut.correlation
