"""Tests that run inside the virtual machine, as root of a kernel of its own."""
