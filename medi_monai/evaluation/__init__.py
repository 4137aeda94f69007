"""Evaluation of sets of images: fidelity, memorization, subgroup shares and linear probes."""
