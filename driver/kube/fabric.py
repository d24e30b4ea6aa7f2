"""Wire types of FabricNetwork (tandem-dra.io/v1beta1), and of the namespaces that may use one.

Admins own FabricNetworks; `deploy/base/fabricnetworks.yaml` defines them, `docs/networks.md` explains them.
"""

from __future__ import annotations

from driver.kube.meta import ObjectMeta, Wire


class LabelSelectorRequirement(Wire, frozen=True, kw_only=True):
    """Operator In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: list[str] = []


class LabelSelector(Wire, frozen=True, kw_only=True):
    """All of it must match; an empty one matches everything."""

    match_labels: dict[str, str] = {}
    match_expressions: list[LabelSelectorRequirement] = []


class NetworkNamespaces(Wire, frozen=True, kw_only=True):
    """Namespaces named, and those that the selector matches."""

    names: list[str] = []
    selector: LabelSelector | None = None


class NetworkBlock(Wire, frozen=True, kw_only=True):
    """A network that is cut: rail 0 has the first subnet of that prefix length, rail 1 the second…"""

    cidr: str
    rail_prefix_length: int


class NetworkRail(Wire, frozen=True, kw_only=True):
    """A rail's subnets and its routers' addresses, one a family at most."""

    rail: int
    subnets: list[str]
    gateways: list[str] = []


class NetworkRoute(Wire, frozen=True, kw_only=True):
    """A destination that is reached by way of the rail's gateway."""

    to: str


class FabricNetworkSpec(Wire, frozen=True, kw_only=True):
    """spec of a FabricNetwork: one of `blocks`, `rails` and `subnets`, or none of them (no addresses)."""

    blocks: list[NetworkBlock] = []
    rails: list[NetworkRail] = []
    subnets: list[str] = []
    gateways: list[str] = []
    exclude: list[str] = []
    routes: list[NetworkRoute] = []
    vlan: int | None = None
    pkey: int | None = None
    mtu: int | None = None
    traffic_class: int | None = None
    namespaces: NetworkNamespaces | None = None
    default: bool = False


class FabricNetwork(Wire, frozen=True, kw_only=True):
    """Cluster-scoped."""

    metadata: ObjectMeta = ObjectMeta()
    spec: FabricNetworkSpec = FabricNetworkSpec()


class Namespace(Wire, frozen=True, kw_only=True):
    """Cluster-scoped; only its labels matter here."""

    metadata: ObjectMeta = ObjectMeta()
