"""Classifiers of attributes: batches, augmentation, training, accuracy."""
