"""What can go wrong between the checkout and an answer from the machine."""

from __future__ import annotations


class VmError(Exception):
    """Base of all errors of this package."""


class UnavailableError(VmError):
    """This host cannot have the machine: a program, a package or a right is missing. Tests skip for it."""


class GuestError(VmError):
    """The machine ended, or was ended, without an answer."""
