"""Methods of robust classification on frozen features, given the center and the class of each training image."""

from medi_monai.evaluation.probes.heads.centers import CenterMaps, fit_combat, fit_coral
from medi_monai.evaluation.probes.heads.robust import fit_balanced_subsets, fit_group_dro

__all__ = ["CenterMaps", "fit_balanced_subsets", "fit_combat", "fit_coral", "fit_group_dro"]
