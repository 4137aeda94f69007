"""What an aligned model draws, subgroup by subgroup."""
