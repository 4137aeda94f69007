"""Tunes a model until the subgroups among its images match a target."""
