"""Which XIDs mean that a GPU is of no use until somebody acts.

An XID is the number under which NVIDIA's driver reports an error. Most are the running program's own fault,
or end with it; those here are the ones whose published immediate action is to reset the GPU or to restart
the machine: Xid catalog, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, and NVIDIA's
table of it (xiderrorsmapping.csv in https://github.com/NVIDIA/NVSentinel), where 48 is a workflow, and fatal.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Remedy(enum.Enum):
    """What makes the GPU whole again."""

    RESET_GPU = "reset of the GPU"
    RESTART_MACHINE = "restart of the machine"


@dataclass(frozen=True, slots=True)
class FatalXid:
    """What happened, and what has to be done."""

    meaning: str
    remedy: Remedy = Remedy.RESET_GPU


FATAL_XIDS: Final[Mapping[int, FatalXid]] = MappingProxyType(
    {
        46: FatalXid("the GPU stopped processing"),
        48: FatalXid("an uncorrectable memory error"),
        62: FatalXid("the power management unit halted"),
        64: FatalXid("bad memory could not be retired"),
        79: FatalXid("the GPU has fallen off the bus", Remedy.RESTART_MACHINE),
        95: FatalXid("a memory error that could not be contained"),
        109: FatalXid("a context switch timed out"),
        110: FatalXid("a security fault"),
        119: FatalXid("the GPU's system processor (GSP) does not answer"),
        120: FatalXid("the GPU's system processor (GSP) failed"),
        136: FatalXid("a link failed to train"),
        140: FatalXid("an uncorrectable memory error that was not handled"),
        143: FatalXid("the GPU failed to initialise"),
        155: FatalXid("an NVLink error found by software"),
        156: FatalXid("a resource was retired"),
        158: FatalXid("a fatal timeout"),
        160: FatalXid("a channel was retired", Remedy.RESTART_MACHINE),
    }
)
"""By number. One that is not here needs nothing from whoever hands out GPUs."""
