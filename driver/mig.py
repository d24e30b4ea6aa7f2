"""Parts of a GPU (Multi-Instance GPU) as values: what can be cut out of it, and what has been.

A GPU has memory slices in a row (eight on most) and engines. A profile says how much of both a partition
takes, a placement which memory slices (NVIDIA MIG User Guide, "Partitioning").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NOT_IN_LABEL = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A kind of partition. `name` is NVIDIA's (``1g.10gb+me``), `id` NVML's GPU instance profile ID.

    `placements` are first memory slice and number of memory slices.
    """

    name: str
    id: int
    memory_bytes: int
    multiprocessors: int = 0
    copy_engines: int = 0
    decoders: int = 0
    encoders: int = 0
    jpeg_engines: int = 0
    ofa_engines: int = 0
    placements: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A partition that an admin (or we) made.

    Attributes:
        uuid: ``MIG-…``, by which CUDA knows it.
        profile: that of its GPU instance, by ID in the GPU's `mig_profiles`.
        gpu_instance, compute_instance: NVML's numbers on this GPU.
        start: first memory slice.
        compute_slices: of its GPU instance's, where it has not all of them; 0 where it has.
        gpu_instance_minor, compute_instance_minor: numbers of the two ``/dev/nvidia-caps/nvidia-cap<minor>``
            that open it; None where not known.
    """

    uuid: str
    profile: int
    gpu_instance: int
    compute_instance: int
    start: int
    size: int
    compute_slices: int = 0
    gpu_instance_minor: int | None = None
    compute_instance_minor: int | None = None


def label(profile_name: str) -> str:
    """A profile's name as a part of a DNS label, different for each: ``1g.10gb+me`` → ``1g-10gb-me``, and
    ``1g.24gb-me`` (without media engines) → ``1g-24gb-nome``.
    """
    return _NOT_IN_LABEL.sub("-", profile_name.lower().replace("-", "-no")).strip("-")
