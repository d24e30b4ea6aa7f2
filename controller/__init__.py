"""The cluster's half: allocate and explain."""
