"""What an operator can set, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from controller.backoff import BackoffLaw
from controller.leader import LeaseTimes
from driver.names import DRIVER_NAME


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """Of the decisions.

    Attributes:
        driver_name: whose devices we allocate.
        bind_timeout_seconds: an allocation that no pod has reserved for so long is taken back.
        nominated_timeout_seconds: the same, while kube-scheduler makes room there (preemption).
        enough_states: nodes in so many different states that can take a pod are enough; the best is taken.
        mtu: for the interfaces in the pods, in bytes; None leaves it to the plugin.
    """

    driver_name: str = DRIVER_NAME
    bind_timeout_seconds: float = 15.0
    nominated_timeout_seconds: float = 300.0
    enough_states: int = 16
    sweep_seconds: float = 0.2
    resync_seconds: float = 300.0
    mtu: int | None = None
    backoff: BackoffLaw = field(default_factory=BackoffLaw)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the process.

    Attributes:
        namespace: where the Lease lies.
        fabric_cidr: the network that is cut into one subnet a rail; None: interfaces get no address.
        rail_prefix_length: of each rail's subnet.
        http_port: of healthz, readyz and metrics; 0 picks a free one.
        writers: how many allocations are written at once.
    """

    placement: PlacementSettings
    namespace: str
    lease: LeaseTimes
    leader_elect: bool = True
    lease_name: str = "tandem-controller"
    fabric_cidr: IPv4Network | IPv6Network | None = None
    rail_prefix_length: int = 24
    http_port: int = 8080
    writers: int = 8
