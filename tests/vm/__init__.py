"""Tests in a virtual machine: real SR-IOV, real NUMA nodes and a stock Debian kernel, on any Linux machine.

QEMU's igb is a NIC with virtual functions that the kernel's own drivers serve, so what runs inside is the
production code over the real sysfs, netlink and namespaces. The guest is made of Debian packages; the
checkout and the virtual environment's packages are shared with it, read-only.
"""
