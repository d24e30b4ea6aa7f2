"""The forms of names, quantities and versions in the Kubernetes API (k8s.io/apimachinery validation, and
resource.k8s.io for attribute names).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Final

from controller.allocator import quantity
from controller.validation.fault import Fault, Faults

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)

DRIVER_LENGTH: Final = 63
IDENTIFIER_LENGTH: Final = 32
STRING_LENGTH: Final = 64


def label(field: str, value: str) -> Faults:
    """A DNS label, as requests, devices, counters and namespaces are named."""
    if len(value) > 63 or not _LABEL.fullmatch(value):
        yield Fault(field, value, "a DNS label: a-z, 0-9 and -, at most 63 characters")


def subdomain(field: str, value: str, length: int = 253) -> Faults:
    """A DNS name, as objects and classes are named."""
    if len(value) > length or not _SUBDOMAIN.fullmatch(value):
        yield Fault(field, value, f"a DNS name: a-z, 0-9, - and ., at most {length} characters")


def driver(field: str, value: str) -> Faults:
    """A driver's name, in letters of any size."""
    if len(value) > DRIVER_LENGTH or not _SUBDOMAIN.fullmatch(value.lower()):
        yield Fault(field, value, f"a DNS name: letters, 0-9, - and ., at most {DRIVER_LENGTH} characters")


def pool(field: str, value: str) -> Faults:
    """A pool's name: DNS names with slashes between."""
    if len(value) > 253 or not all(_SUBDOMAIN.fullmatch(part) for part in value.split("/")):
        yield Fault(field, value, "DNS names with / between them, at most 253 characters")


def key(field: str, value: str) -> Faults:
    """A label or taint key: ``name`` or ``domain/name``."""
    if not is_key(value):
        yield Fault(field, value, "a label key: name or domain/name")


def is_key(value: str) -> bool:
    """Is it a label key?"""
    prefix, slash, name = value.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= 63 and _KEY.fullmatch(name) is not None


def labels(field: str, values: Mapping[str, str]) -> Faults:
    """An object's labels."""
    for name, value in values.items():
        yield from key(f"{field}[{name}]", name)
        yield from label_value(f"{field}[{name}]", value)


def label_value(field: str, value: str) -> Faults:
    """A label's or taint's value; may be empty."""
    if value and (len(value) > 63 or not _KEY.fullmatch(value)):
        yield Fault(field, value, "a label value: letters, digits, -, _ and ., at most 63 characters")


def qualified(field: str, value: str, *, domain_needed: bool = False) -> Faults:
    """The name of an attribute or a capacity: a C identifier, with or without a driver's name before it.
    Kubernetes takes whatever has more than one slash.
    """
    *domain, name = value.split("/")
    good = len(name) <= IDENTIFIER_LENGTH and _IDENTIFIER.fullmatch(name) is not None
    if domain:
        good = len(domain) > 1 or (good and not any(driver(field, domain[0])))
    if not good or (domain_needed and not domain):
        form = "domain/identifier" if domain_needed else "identifier or domain/identifier"
        yield Fault(field, value, f"{form}, the identifier at most {IDENTIFIER_LENGTH} letters, digits and _")


def amount(field: str, value: str) -> Faults:
    """A quantity."""
    try:
        quantity.parse(value)
    except ValueError:
        yield Fault(field, value, "a quantity such as 4, 500m or 80Gi")


def amounts(field: str, values: Mapping[str, str], *, least_zero: bool = True) -> Faults:
    """Quantities by name, none below zero."""
    for name, value in values.items():
        faults = list(amount(f"{field}[{name}]", value))
        yield from faults
        if not faults and least_zero and quantity.parse(value) < 0:
            yield Fault(f"{field}[{name}]", value, "0 or more")


def version(field: str, value: str) -> Faults:
    """A semantic version 2.0.0."""
    if len(value) > STRING_LENGTH or not _SEMVER.fullmatch(value):
        yield Fault(field, value, f"a semantic version such as 1.2.3, at most {STRING_LENGTH} characters")


def one_of(field: str, value: str, choices: Iterable[str]) -> Faults:
    """One of some words."""
    choices = list(choices)
    if value not in choices:
        yield Fault(field, value, " or ".join(word or '""' for word in choices))


def at_most(field: str, count: int, limit: int) -> Faults:
    """Not too many entries."""
    if count > limit:
        yield Fault(field, f"{count} entries", f"{limit} at most")


def unique(field: str, values: Iterable[Hashable], what: str = "") -> Faults:
    """No value twice; the fault's field is the later one's."""
    seen: set[Hashable] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Fault(f"{field}[{index}]{what}", value, "a value that is not in the list yet")
        seen.add(value)
