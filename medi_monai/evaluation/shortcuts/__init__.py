"""Shortcuts in features: what they reveal of class and attributes, and accuracy on unseen combinations."""
