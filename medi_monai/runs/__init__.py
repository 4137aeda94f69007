"""What the configs of the bundles call: a module for each run, the settings of runs, and the start of a run."""
