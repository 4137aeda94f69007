"""Fine-tune a model until the subgroup shares of its images match a target."""
