"""Machine files, one real product each, and nothing else."""
