"""The node's half: prepare, publish, attach."""
