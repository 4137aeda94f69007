"""Run the stages of an experiment, each in its own process."""
