"""What the configs of the bundles call: a module for each run, its settings, and how a run begins."""
