"""One device of each kind that the cluster has had, by driver: selectors are tried on these to decide whose a
claim is.

Which claims are ours must not change because a node restarts or a device is taken. So a kind is kept when its
devices go away, taken devices count like free ones, and what our own driver typically publishes is known
before the first node is up. Devices that differ only in numbers and identities are of one kind, so there are
some dozens of kinds, however large the cluster is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from controller.allocator.model import DeviceId, NodeDevices, PoolDevice, content_of
from controller.equal import NUMBERS
from controller.strays import is_stray
from driver.devices import Gpu, Inventory, Nic, Place, Vf
from driver.kube.objects import Device, ResourceSlice
from driver.slices import SliceOptions, devices

STRANGER: Final = "stranger.invalid"
"""A driver that does not exist."""
_KEPT_KINDS: Final = 512
"""Of one driver. Those beyond are not looked at."""
_KEPT_SEEN: Final = 20_000
_AT_ONCE: Final = 32
"""Devices that a selector is tried on before it is asked whether one matched."""


class KnownDevices:
    """Kinds of devices by driver; they only become more. Not thread-safe.

    Attributes:
        version: grows with each new kind.
    """

    def __init__(self, driver_name: str) -> None:
        self._driver_name = driver_name
        self._kinds: dict[str, dict[bytes, PoolDevice]] = {}
        self._seen: dict[int, Device] = {}
        self._made: dict[str, tuple[int, tuple[NodeDevices, ...]]] = {}
        self.version = 0
        self.add(driver_name, _typical(driver_name))

    def add(self, driver: str, published: Iterable[Device]) -> bool:
        """Take in published devices. True where one is of a new kind."""
        kinds, before = self._kinds.setdefault(driver, {}), self.version
        for device in published:
            if id(device) in self._seen or len(kinds) >= _KEPT_KINDS:
                continue
            if len(self._seen) >= _KEPT_SEEN:
                self._seen.clear()
            self._seen[id(device)] = device  # which keeps the device, and so its id
            kind = content_of(driver, _without_numbers(device))
            if kind not in kinds:
                kinds[kind] = _as_published(driver, device)
                self.version += 1
        return self.version > before

    def take_in(self, item: ResourceSlice) -> bool:
        """As `add`, for a slice that counts."""
        return not is_stray(item, self._driver_name) and self.add(item.spec.driver, item.spec.devices)

    def ours(self) -> Iterator[NodeDevices]:
        """The kinds of our driver, some at a time."""
        yield from self._chunks(self._driver_name, self._kinds[self._driver_name].values())

    def twins(self) -> Iterator[NodeDevices]:
        """The same devices as another driver would publish them."""
        ours = self._kinds[self._driver_name].values()
        yield from self._chunks(STRANGER, (_as_published(STRANGER, kind.device) for kind in ours))

    def others(self) -> Iterator[tuple[str, NodeDevices]]:
        """The kinds of all other drivers, some at a time, with the driver's name."""
        for driver in sorted(self._kinds.keys() - {self._driver_name}):
            for chunk in self._chunks(driver, self._kinds[driver].values()):
                yield driver, chunk

    def _chunks(self, name: str, kinds: Iterable[PoolDevice]) -> Sequence[NodeDevices]:
        version, made = self._made.get(name, (-1, ()))
        if version != self.version:
            every = tuple(kinds)
            made = tuple(
                NodeDevices(node="", devices=every[at : at + _AT_ONCE])
                for at in range(0, len(every), _AT_ONCE)
            )
            self._made[name] = self.version, made
        return made


def bare_device(driver: str) -> PoolDevice:
    """A device of which nothing is known but its driver."""
    return _as_published(driver, Device(name="any"))


def _as_published(driver: str, device: Device) -> PoolDevice:
    content = content_of(driver, device)
    return PoolDevice(id=DeviceId(driver, "", device.name), device=device, place=Place(), content=content)


def _without_numbers(device: Device) -> Device:
    kept = {k: v for k, v in device.attributes.items() if k.rpartition("/")[2] not in NUMBERS}
    return msgspec.structs.replace(device, attributes=kept)


def _typical(driver_name: str) -> list[Device]:
    """A GPU, a NIC and a virtual function."""
    place = Place("0000:02:00.0", "0000:01:01.0", "pci0000:00", 0)
    inventory = Inventory(
        machine="typical",
        gpus=(Gpu(pci_address="0000:03:00.0", place=place, rail=0, uuid="GPU-0", product_name="GPU"),),
        nics=(
            Nic(
                pci_address="0000:04:00.0",
                name="mlx5_0",
                place=place,
                rail=0,
                sriov_num_vfs=1,
                vfs=(Vf(pci_address="0000:04:00.1", index=0, place=place, rail=0),),
            ),
        ),
    )
    return devices(inventory, driver_name=driver_name, options=SliceOptions(pf_and_vfs=True))
