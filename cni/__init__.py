"""The host shim of the CNI plugin, and its installer."""
