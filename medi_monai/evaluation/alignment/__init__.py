"""Evaluation of the images of an aligned model, by subgroup."""
