"""What a split is made of: the name of its rule and the rule's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["SCHEMES", "SplitScheme"]

#: the schemes by name, with the fewest columns that each is about
SCHEMES = {
    "combination_holdout": 1,
    "subpopulation_holdout": 2,
    "site_holdout": 2,
    "patient_kfold": 1,
    "medi_2025": 2,
}

VAL_FRACTION = 0.15


@dataclass(frozen=True)
class SplitScheme:
    """Which patients train, and which are held out.

    ``combination_holdout``: every class and every attribute value is in training, some of their combinations are not;
    the fair test of recombination. ``subpopulation_holdout``: a fraction of the combinations of attributes within each
    class, as in MeDi (arXiv 2506.17140). ``site_holdout``: whole centers that training never sees. ``patient_kfold``:
    one of several folds of patients, stratified by label. ``medi_2025``: the published rule, for comparison.

    Args:
        columns: label first, then the attributes that the scheme is about. ``combination_holdout`` holds nothing out
            where the label is alone; ``site_holdout`` and ``medi_2025`` take the second column as center or site.
        name: one of :data:`SCHEMES`.
        fraction: of what is held out, in [0, 1): combinations (within each class for ``subpopulation_holdout``),
            centers, or the keys of each class for ``medi_2025``. ``patient_kfold`` has no use for it.
        val_fraction: of the patients of each combination in training that become in-domain validation, in [0, 1);
            a combination with fewer than three patients keeps them all in training. ``None`` is 0.15, and 0 for
            ``medi_2025``, which has no validation.
        seed: which combinations, centers and patients; ``medi_2025`` follows the order of the file instead.
        values: the centers that ``site_holdout`` holds out, instead of a fraction.
        num_folds: of ``patient_kfold``, 2 or more.
        fold: the one that ``patient_kfold`` holds out, from 0.

    Raises:
        InputError: for an unknown name, a number out of its range, or columns that do not suit the scheme.
    """

    columns: Sequence[str]
    name: str = "combination_holdout"
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
        """``val_fraction``, or the scheme's own where it is ``None``."""
        if self.val_fraction is not None:
            return self.val_fraction
        return 0.0 if self.name == "medi_2025" else VAL_FRACTION

    def _check_columns(self) -> None:
        columns = self.columns
        if not _are_names(columns):
            raise InputError(f"columns = {columns!r}: use a list of column names, with the label first")
        if len(set(columns)) < len(columns) or "patient" in columns:
            raise InputError(
                f"columns = {list(columns)}: use each column once, and not `patient`, which every scheme uses"
            )
        if len(columns) < SCHEMES[self.name]:
            wanted = "the label" + (" and at least one attribute" if SCHEMES[self.name] > 1 else "")
            raise InputError(f"columns = {list(columns)}: {self.name} needs {wanted}")

    def _check_fraction(self, name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise InputError(f"{name} = {value!r}: it must be in [0, 1)")

    def _check_values(self) -> None:
        if not _are_names(self.values):
            raise InputError(f"values = {self.values!r}: use a list of the centers to hold out")
        if self.values and self.name != "site_holdout":
            raise InputError(f"values = {list(self.values)}: only site_holdout uses them, not {self.name}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value)
