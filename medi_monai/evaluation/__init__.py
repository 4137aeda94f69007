"""Evaluation of sets of images: fidelity, memorization, subgroups, linear probes."""
