"""Devices that share hardware: parts of a GPU, a GPU in another form, a PF and its VFs.

Whatever could be taken together by mistake draws on one counter set (partitionable devices, KEP-4815): each
memory slice is a counter of 1, engines are counted, and the whole takes all of everything. So a whole and its
parts exclude each other by arithmetic alone, in kube-scheduler as in our allocator. A device that is alone on
its hardware has no counters.

What a device consumes follows from its hardware, not from what is in use now: it must not change while the
device is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from driver import attributes as say
from driver.attributes import Attributes, Capacity
from driver.devices import Gpu, Nic, pci_order
from driver.kube.objects import Counter, CounterSet, DeviceCounterConsumption
from driver.mig import MigInstance, MigProfile, label
from driver.names import TYPE_GPU, TYPE_MIG, TYPE_NIC, TYPE_VF, TYPE_VFIO, device_name

MigMode = Literal["off", "static", "dynamic"]

_ENGINES: Final = {
    "multiprocessors": "multiprocessors",
    "copy-engines": "copy_engines",
    "decoders": "decoders",
    "encoders": "encoders",
    "jpeg-engines": "jpeg_engines",
    "ofa-engines": "ofa_engines",
}
"""Counter and the field of a profile."""

COUNTERS_PER_SET: Final = 32
_WHOLE: Final = "device"
_VFS: Final = "vfs"

IN_USE: Final = "the node itself uses its interface (address, default route, bond or bridge)"


@dataclass(frozen=True, slots=True)
class Offer:
    """A device to be published, before names are qualified and taints are added.

    Attributes:
        withheld: why it must not be published; empty if it may.
    """

    kind: str
    name: str
    attributes: Attributes
    capacity: Capacity
    consumes: tuple[DeviceCounterConsumption, ...] = ()
    withheld: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Devices of one piece of hardware, the counter set that they share, if any."""

    offers: tuple[Offer, ...]
    counters: CounterSet | None = None


def of_gpu(gpu: Gpu, *, mig: MigMode, vfio: bool) -> Family:
    """The forms in which a GPU is published.

    ``static``: a GPU in MIG mode as the instances that it has; ``dynamic``: every GPU of which NVML tells
    placements both whole and as every profile at every placement; ``off``: none that is in MIG mode.
    """
    if mig == "dynamic" and any(profile.placements for profile in gpu.mig_profiles):
        return _dynamic(gpu, vfio=vfio)
    if gpu.mig_enabled:
        return Family(_instances(gpu) if mig != "off" else ())
    if vfio and gpu.iommu_group is not None:
        whole = _whole_set(device_name(TYPE_GPU, gpu.pci_address))
        everything = _all_of(whole)
        return Family((_gpu(gpu, everything), _vfio(gpu, everything)), whole)
    return Family((_gpu(gpu),))


def of_silent_gpu(gpu: Gpu, *, vfio: bool) -> Family:
    """A GPU without an NVML answer: nothing, or what it is for a virtual machine. It draws on the set that it
    has as a whole GPU.
    """
    if not vfio or gpu.kernel_driver != "vfio-pci" or gpu.iommu_group is None:
        return Family(())
    whole = _whole_set(device_name(TYPE_GPU, gpu.pci_address))
    return Family((_vfio(gpu, _all_of(whole)),), whole)


def of_nic(nic: Nic, *, both: bool) -> Family:
    """A PF's VFs, or itself where it has none; with `both` it and its VFs, which exclude each other."""
    has_vfs = bool(nic.vfs or nic.sriov_num_vfs)
    attributes, capacity = say.of_nic(nic), say.nic_capacity(nic)
    pf = device_name(TYPE_NIC, nic.pci_address)
    in_use = IN_USE if nic.netdev is not None and nic.netdev.uplink else ""
    if not has_vfs:
        return Family((Offer(TYPE_NIC, pf, attributes, capacity, withheld=in_use),))
    # As many as it can ever have: making more VFs must not change what the PF consumes.
    total = max(nic.sriov_total_vfs, nic.sriov_num_vfs, *(vf.index + 1 for vf in nic.vfs), 1)
    shared = CounterSet(name=pf, counters={_VFS: Counter(value=str(total))}) if both else None
    one = (_consumption(pf, {_VFS: 1}),) if both else ()
    offers = [
        Offer(
            TYPE_VF,
            device_name(TYPE_VF, vf.pci_address),
            say.of_vf(nic, vf),
            capacity,
            one,
            withheld=IN_USE if vf.netdev is not None and vf.netdev.uplink else "",
        )
        for vf in sorted(nic.vfs, key=lambda vf: pci_order(vf.pci_address))
    ]
    if both:
        everything = (_consumption(pf, {_VFS: total}),)
        offers.append(Offer(TYPE_NIC, pf, attributes, capacity, everything, withheld=in_use))
    return Family(tuple(offers), shared)


def partition_name(gpu_address: str, profile_name: str, start: int, compute: int | None = None) -> str:
    """``mig-0000-1b-00-0-1g-10gb-0``: GPU, profile, first memory slice. A part of a GPU instance has the
    number of its compute instance at the end.
    """
    name = f"{device_name(TYPE_MIG, gpu_address)}-{label(profile_name)}-{start}"
    return name if compute is None else f"{name}-{compute}"


def instance_name(gpu: Gpu, instance: MigInstance) -> str:
    """Name of the device that a partition of the GPU, which is there, is published as."""
    number = instance.compute_instance if instance.compute_slices else None
    return partition_name(gpu.pci_address, _instance_profile(gpu, instance), instance.start, number)


def _instance_profile(gpu: Gpu, instance: MigInstance) -> str:
    found = (profile.name for profile in gpu.mig_profiles if profile.id == instance.profile)
    name = next(found, f"profile{instance.profile}")
    return f"{instance.compute_slices}c.{name}" if instance.compute_slices else name


def _dynamic(gpu: Gpu, *, vfio: bool) -> Family:
    name = device_name(TYPE_GPU, gpu.pci_address)
    profiles = [profile for profile in gpu.mig_profiles if profile.placements]
    slices = max(start + size for profile in profiles for start, size in profile.placements)
    totals = {_slice(number): 1 for number in range(slices)}
    for counter, field in _ENGINES.items():
        most = max(getattr(profile, field) for profile in profiles)
        if most:
            totals[counter] = most
    if len(totals) > COUNTERS_PER_SET:
        return Family((_gpu(gpu),))
    counters = CounterSet(name=name, counters={c: Counter(value=str(n)) for c, n in totals.items()})
    everything = (_consumption(name, totals),)
    offers = [_gpu(gpu, everything)]
    for profile in profiles:
        for start, size in profile.placements:
            consumes = {_slice(number): 1 for number in range(start, start + size)}
            consumes |= {counter: getattr(profile, field) for counter, field in _ENGINES.items()}
            offers.append(
                Offer(
                    TYPE_MIG,
                    partition_name(gpu.pci_address, profile.name, start),
                    say.of_partition(gpu, profile, start, size),
                    say.profile_capacity(profile),
                    (_consumption(name, {c: n for c, n in consumes.items() if n}),),
                )
            )
    if vfio and gpu.iommu_group is not None:
        offers.append(_vfio(gpu, everything))
    return Family(tuple(offers), counters)


def _instances(gpu: Gpu) -> tuple[Offer, ...]:
    by_id = {profile.id: profile for profile in gpu.mig_profiles}
    return tuple(_instance(gpu, instance, by_id.get(instance.profile)) for instance in gpu.mig_instances)


def _instance(gpu: Gpu, instance: MigInstance, profile: MigProfile | None) -> Offer:
    return Offer(
        TYPE_MIG,
        instance_name(gpu, instance),
        say.of_instance(gpu, instance, profile, _instance_profile(gpu, instance)),
        say.profile_capacity(profile) if profile is not None else {},
    )


def _gpu(gpu: Gpu, consumes: tuple[DeviceCounterConsumption, ...] = ()) -> Offer:
    name = device_name(TYPE_GPU, gpu.pci_address)
    return Offer(TYPE_GPU, name, say.of_gpu(gpu), say.gpu_capacity(gpu), consumes)


def _vfio(gpu: Gpu, consumes: tuple[DeviceCounterConsumption, ...]) -> Offer:
    return Offer(TYPE_VFIO, device_name(TYPE_VFIO, gpu.pci_address), say.of_vfio(gpu), {}, consumes)


def _slice(number: int) -> str:
    return f"memory-slice-{number}"


def _whole_set(name: str) -> CounterSet:
    return CounterSet(name=name, counters={_WHOLE: Counter(value="1")})


def _all_of(counters: CounterSet) -> tuple[DeviceCounterConsumption, ...]:
    return (DeviceCounterConsumption(counter_set=counters.name, counters=counters.counters),)


def _consumption(name: str, amounts: Mapping[str, int]) -> DeviceCounterConsumption:
    counters = {counter: Counter(value=str(amount)) for counter, amount in amounts.items()}
    return DeviceCounterConsumption(counter_set=name, counters=counters)
