"""Runs the stages of an experiment, each a process of its own."""
