"""Metadata-conditioned diffusion for medical images: train on class and metadata, sample the missing subpopulations."""

__version__ = "0.1.0"
