"""Sources of hardware facts, one module each."""
