"""Seeding, atomic files, errors for users, optional packages and run summaries."""
