"""A real Kubernetes on one machine, put together from its own programs: for the cluster tests, the benches
and `make demo`.
"""
