"""Findings and verdicts from the figures of an evaluation."""
