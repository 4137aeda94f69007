"""Metadata-conditioned diffusion for medical images: train on class and metadata, sample the missing subpopulations."""

from medi_monai.bundle_hook import install

__version__ = "0.1.0"

install()
