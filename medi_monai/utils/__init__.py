"""Settings, files and their records, errors for users, worker processes, seeding, optional packages and run folders."""
