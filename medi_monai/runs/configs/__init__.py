"""Config files and options of a run: read, checked, merged, and protected from MONAI's syntax."""
