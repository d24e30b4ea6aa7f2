"""What real GPUs can be cut into: the MIG profiles of products, as data (``driver/mock/mig``)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

import msgspec
import yaml

from driver.errors import ConfigError


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a product's file; see there."""

    profile: int
    id: int
    name: str
    slices: int
    memory_mib: int
    sm: int
    ce: int
    dec: int
    jpeg: int
    ofa: int
    starts: tuple[int, ...]
    size: int
    instances: int


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU instance of a machine file: NVIDIA's name of its profile, its first memory slice. It has one
    compute instance.
    """

    profile: str
    start: int


class Product(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MIG profiles of some products of one kind."""

    sources: tuple[str, ...]
    products: tuple[str, ...]
    profiles: tuple[Profile, ...]


@functools.cache
def products() -> dict[str, Product]:
    """Every product that we know the profiles of, by its name in NVML."""
    found: dict[str, Product] = {}
    for entry in resources.files("driver.mock.mig").iterdir():
        if entry.name.endswith(".yaml"):
            product = msgspec.convert(yaml.safe_load(entry.read_text(encoding="utf-8")), Product)
            found.update(dict.fromkeys(product.products, product))
    return found


def cuts(product_name: str, wanted: Sequence[Cut]) -> list[tuple[Profile, int]]:
    """Profile and first memory slice of each wanted instance.

    Raises:
        ConfigError: the product cannot be cut so.
    """
    product = products().get(product_name)
    if product is None and wanted:
        known = ", ".join(sorted(products()))
        raise ConfigError(f"{product_name} has no MIG profiles here; products that have are {known}")
    by_name = {profile.name: profile for profile in product.profiles} if product else {}
    found: list[tuple[Profile, int]] = []
    taken: set[int] = set()
    for cut in wanted:
        profile = by_name.get(cut.profile)
        if profile is None:
            raise ConfigError(f"there is no profile {cut.profile!r}; known are {', '.join(by_name)}")
        if cut.start not in profile.starts:
            raise ConfigError(f"{profile.name} begins at {cut.start}; possible are {profile.starts}")
        covers = set(range(cut.start, cut.start + profile.size))
        if taken & covers:
            raise ConfigError(f"{profile.name} at {cut.start} overlaps another instance")
        if sum(other == profile for other, _ in found) >= profile.instances:
            raise ConfigError(f"{profile.name} is there more than {profile.instances} times")
        taken |= covers
        found.append((profile, cut.start))
    return found
