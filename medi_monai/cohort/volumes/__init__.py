"""MR and other volumes: NIfTI, DICOM, MetaImage and NRRD, and the slices that become images."""

from medi_monai.cohort.volumes.reading import VolumeReader
from medi_monai.cohort.volumes.rules import PLANES, VolumeRules
from medi_monai.cohort.volumes.table import FILE, SERIES, SLICE, expand_volumes

__all__ = ["FILE", "PLANES", "SERIES", "SLICE", "VolumeReader", "VolumeRules", "expand_volumes"]
