"""Pods that get their devices together or not at all."""
