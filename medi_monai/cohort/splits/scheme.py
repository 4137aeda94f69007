"""Names, requirements and settings of split schemes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["SCHEMES", "SchemeTraits", "SplitScheme"]


@dataclass(frozen=True)
class SchemeTraits:
    """Requirements of a scheme, and the settings of a :class:`SplitScheme` that it uses.

    Args:
        min_columns: minimum number of columns: 1 if the label is enough, 2 if an attribute is also needed.
        takes_values: whether ``values`` can specify what is held out.
        val_fraction: default of ``val_fraction`` in :class:`SplitScheme`.
        by_file_order: whether the split depends on the order of the rows instead of a random seed.
    """

    min_columns: int
    takes_values: bool = False
    val_fraction: float = 0.15
    by_file_order: bool = False


#: schemes by name; their rules are in ``assign.py``
SCHEMES = {
    "auto": SchemeTraits(1),
    "combination_holdout": SchemeTraits(1),
    "subpopulation_holdout": SchemeTraits(2),
    "site_holdout": SchemeTraits(2, takes_values=True),
    "patient_kfold": SchemeTraits(1),
    "medi_2025": SchemeTraits(2, val_fraction=0.0, by_file_order=True),
}


@dataclass(frozen=True)
class SplitScheme:
    """Settings of a split: which patients are in training, and which are held out.

    ``auto``: the first of ``combination_holdout``, ``subpopulation_holdout`` and ``patient_kfold`` that is possible.
    ``combination_holdout`` holds out some combinations while every class and attribute value is in training, a fair
    test of recombination; ``subpopulation_holdout`` a fraction of the attribute combinations within each class, as in
    MeDi (arXiv 2506.17140); ``site_holdout`` whole centers; ``patient_kfold`` one of several folds of patients,
    stratified by label; ``medi_2025`` follows the rule of the published code, for comparison.

    Args:
        columns: the label, then the attributes that define the split. ``combination_holdout`` holds nothing out if
            there is only the label; for ``site_holdout`` and ``medi_2025``, the second column is the center or site.
        name: one of :data:`SCHEMES`.
        fraction: fraction to hold out, in [0, 1): of the combinations (within each class for
            ``subpopulation_holdout``), of the centers, or of the keys of each class for ``medi_2025``. Not used by
            ``patient_kfold``.
        val_fraction: fraction of the patients of each combination in training that become in-domain validation, in
            [0, 1); combinations with fewer than three patients stay in training. ``None`` means 0.15, or 0 for
            ``medi_2025``, which has no validation.
        seed: random seed for combinations, centers and patients; ``medi_2025`` follows the order of the file instead.
        values: centers that ``site_holdout`` holds out, instead of a fraction.
        num_folds: number of folds for ``patient_kfold``, 2 or more.
        fold: fold that ``patient_kfold`` holds out, from 0.

    Raises:
        InputError: for an unknown name, a number out of range, or columns that do not fit the scheme.
    """

    columns: Sequence[str]
    name: str = "auto"
    fraction: float = 0.3
    val_fraction: float | None = None
    seed: int = 0
    values: Sequence[str] = ()
    num_folds: int = 5
    fold: int = 0

    def __post_init__(self) -> None:
        if self.name not in SCHEMES:
            raise unknown_value("split scheme", self.name, SCHEMES, "Pass numbers by name: fraction=0.3.")
        self._check_columns()
        self._check_fraction("fraction", self.fraction)
        if self.val_fraction is not None:
            self._check_fraction("val_fraction", self.val_fraction)
        self._check_values()
        for name, least in (("num_folds", 2), ("fold", 0)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise InputError(f"{name} = {value!r}: it must be a whole number of {least} or more")
        if self.fold >= self.num_folds:
            raise InputError(f"fold = {self.fold}: folds are numbered from 0, and num_folds = {self.num_folds}")
        if not _is_whole(self.seed):
            raise InputError(f"seed = {self.seed!r}: it must be a whole number")

    @property
    def validation_share(self) -> float:
        """``val_fraction``, or the default of the scheme if it is ``None``."""
        return SCHEMES[self.name].val_fraction if self.val_fraction is None else self.val_fraction

    def _check_columns(self) -> None:
        columns = self.columns
        if not _are_names(columns):
            raise InputError(f"columns = {columns!r}: use a list of column names, with the label first")
        if len(set(columns)) < len(columns) or "patient" in columns:
            raise InputError(
                f"columns = {list(columns)}: use each column once, and not `patient`, which every scheme uses"
            )
        least = SCHEMES[self.name].min_columns
        if len(columns) < least:
            wanted = "the label" + (" and at least one attribute" if least > 1 else "")
            raise InputError(f"columns = {list(columns)}: {self.name} needs {wanted}")

    def _check_fraction(self, name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise InputError(f"{name} = {value!r}: it must be in [0, 1)")

    def _check_values(self) -> None:
        if not _are_names(self.values):
            raise InputError(f"values = {self.values!r}: use a list of the centers to hold out")
        if self.values and not SCHEMES[self.name].takes_values:
            users = " and ".join(name for name, traits in SCHEMES.items() if traits.takes_values)
            raise InputError(f"values = {list(self.values)}: only {users} uses them, not {self.name}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value)
