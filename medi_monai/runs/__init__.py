"""Entry points for the bundles' configs: a module for each run, settings, and the start of a run."""
