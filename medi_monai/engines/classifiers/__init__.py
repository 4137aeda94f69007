"""Classifiers of attributes: batches, augmentation, training, and accuracy."""
