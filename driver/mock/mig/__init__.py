"""MIG profiles of real products, and nothing else."""
