"""Trains and draws: trainer, prepare-batch, image generator, CLIP, the folder of a model."""
