"""Wire types of resource.k8s.io/v1, as Kubernetes 1.36 has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from driver.kube.meta import NodeSelector, NullableList, ObjectMeta, Quantity, Wire


class DeviceAttribute(Wire, frozen=True, kw_only=True):
    """Exactly one is set. `version` is semver text."""

    int_: int | None = msgspec.field(default=None, name="int")
    bool_: bool | None = msgspec.field(default=None, name="bool")
    string: str | None = None
    version: str | None = None
    ints: list[int] | None = None
    bools: list[bool] | None = None
    strings: list[str] | None = None
    versions: list[str] | None = None


class CapacityRange(Wire, frozen=True, kw_only=True):
    """requestPolicy.validRange."""

    min: Quantity | None = None
    max: Quantity | None = None
    step: Quantity | None = None


class CapacityRequestPolicy(Wire, frozen=True, kw_only=True):
    """How much of a shared capacity one request consumes."""

    default: Quantity | None = None
    valid_values: list[Quantity] = []
    valid_range: CapacityRange | None = None


class DeviceCapacity(Wire, frozen=True, kw_only=True):
    """`value` is the whole amount."""

    value: Quantity
    request_policy: CapacityRequestPolicy | None = None


class Counter(Wire, frozen=True, kw_only=True):
    """`value` is the whole amount, or what is taken of it."""

    value: Quantity


class CounterSet(Wire, frozen=True, kw_only=True):
    """A named set of counters that devices consume from."""

    name: str
    counters: dict[str, Counter] = {}


class DeviceCounterConsumption(Wire, frozen=True, kw_only=True):
    """What a device takes of a counter set."""

    counter_set: str
    counters: dict[str, Counter] = {}


class DeviceTaint(Wire, frozen=True, kw_only=True):
    """effect None, NoSchedule or NoExecute; the server fills `time_added`."""

    key: str
    effect: str
    value: str = ""
    time_added: str | None = None


class Device(Wire, frozen=True, kw_only=True):
    """spec.devices[] of a slice."""

    name: str
    attributes: dict[str, DeviceAttribute] = {}
    capacity: dict[str, DeviceCapacity] = {}
    consumes_counters: list[DeviceCounterConsumption] = []
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool = False
    taints: list[DeviceTaint] = []
    binds_to_node: bool = False
    binding_conditions: list[str] = []
    binding_failure_conditions: list[str] = []
    allow_multiple_allocations: bool = False


class ResourcePool(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """A pool is whole when as many slices of the newest generation exist as `resource_slice_count` says."""

    name: str
    generation: int
    resource_slice_count: int


class ResourceSliceSpec(Wire, frozen=True, kw_only=True):
    """devices and sharedCounters are never both set."""

    driver: str
    pool: ResourcePool
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    all_nodes: bool = False
    per_device_node_selection: bool = False
    devices: list[Device] = []
    shared_counters: list[CounterSet] = []


class ResourceSlice(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Cluster-scoped."""

    api_version: str = "resource.k8s.io/v1"
    kind: str = "ResourceSlice"
    metadata: ObjectMeta = ObjectMeta()
    spec: ResourceSliceSpec


class CelSelector(Wire, frozen=True, kw_only=True):
    """A CEL expression over `device`."""

    expression: str


class DeviceSelector(Wire, frozen=True, kw_only=True):
    """selectors[]."""

    cel: CelSelector | None = None


class DeviceToleration(Wire, frozen=True, kw_only=True):
    """operator Equal (default) or Exists; an empty key with Exists tolerates all."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class CapacityRequirements(Wire, frozen=True, kw_only=True):
    """By capacity name."""

    requests: dict[str, Quantity] = {}


class ExactDeviceRequest(Wire, frozen=True, kw_only=True):
    """spec.devices.requests[].exactly."""

    device_class_name: str
    selectors: list[DeviceSelector] = []
    allocation_mode: str = "ExactCount"
    count: int = 1
    admin_access: bool = False
    tolerations: list[DeviceToleration] = []
    capacity: CapacityRequirements | None = None


class DeviceSubRequest(Wire, frozen=True, kw_only=True):
    """spec.devices.requests[].firstAvailable[]."""

    name: str
    device_class_name: str
    selectors: list[DeviceSelector] = []
    allocation_mode: str = "ExactCount"
    count: int = 1
    tolerations: list[DeviceToleration] = []
    capacity: CapacityRequirements | None = None


class DeviceRequest(Wire, frozen=True, kw_only=True):
    """Either `exactly` or `first_available`."""

    name: str
    exactly: ExactDeviceRequest | None = None
    first_available: list[DeviceSubRequest] = []

    @property
    def alternatives(self) -> Sequence[ExactDeviceRequest | DeviceSubRequest]:
        """The ways to meet the request, in order of preference."""
        return [self.exactly] if self.exactly is not None else self.first_available


class DeviceConstraint(Wire, frozen=True, kw_only=True):
    """`requests` empty means all of the claim."""

    requests: list[str] = []
    match_attribute: str | None = None
    distinct_attribute: str | None = None


class OpaqueConfig(Wire, frozen=True, kw_only=True):
    """`parameters` is a JSON object of at most 10 KiB, kept as raw JSON."""

    driver: str
    parameters: msgspec.Raw

    def __post_init__(self) -> None:
        """Copy the parameters: a `Raw` would keep the whole answer that it was cut from in memory."""
        msgspec.structs.force_setattr(self, "parameters", self.parameters.copy())


class DeviceClaimConfig(Wire, frozen=True, kw_only=True):
    """spec.devices.config[] of a claim."""

    requests: list[str] = []
    opaque: OpaqueConfig | None = None


class DeviceClassConfig(Wire, frozen=True, kw_only=True):
    """spec.config[] of a class."""

    opaque: OpaqueConfig | None = None


class DeviceAllocationConfig(Wire, frozen=True, kw_only=True):
    """status.allocation.devices.config[]; source FromClass or FromClaim."""

    source: str
    requests: list[str] = []
    opaque: OpaqueConfig | None = None


class DeviceClaim(Wire, frozen=True, kw_only=True):
    """spec.devices of a claim."""

    requests: NullableList[DeviceRequest] = []
    constraints: list[DeviceConstraint] = []
    config: list[DeviceClaimConfig] = []

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "requests", self.requests or [])


class ResourceClaimSpec(Wire, frozen=True, kw_only=True):
    """spec of a claim."""

    devices: DeviceClaim = DeviceClaim()


class DeviceRequestAllocationResult(Wire, frozen=True, kw_only=True):
    """status.allocation.devices.results[]; request is ``name`` or ``name/subrequest``."""

    request: str
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None
    tolerations: list[DeviceToleration] = []
    binding_conditions: list[str] = []
    binding_failure_conditions: list[str] = []
    share_id: str | None = msgspec.field(default=None, name="shareID")
    consumed_capacity: dict[str, Quantity] = {}


class DeviceAllocationResult(Wire, frozen=True, kw_only=True):
    """status.allocation.devices."""

    results: list[DeviceRequestAllocationResult] = []
    config: list[DeviceAllocationConfig] = []


class AllocationResult(Wire, frozen=True, kw_only=True):
    """status.allocation; without `allocation_timestamp` kube-scheduler never binds (1.36)."""

    devices: DeviceAllocationResult = DeviceAllocationResult()
    node_selector: NodeSelector | None = None
    allocation_timestamp: str | None = None


class ResourceClaimConsumerReference(Wire, frozen=True, kw_only=True):
    """status.reservedFor[]."""

    api_group: str = ""
    resource: str
    name: str
    uid: str


class Condition(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str = ""


class NetworkDeviceData(Wire, frozen=True, kw_only=True):
    """status.devices[].networkData; ips in CIDR form."""

    interface_name: str = ""
    ips: list[str] = []
    hardware_address: str = ""


class AllocatedDeviceStatus(Wire, frozen=True, kw_only=True):
    """status.devices[] without its data; the key (driver, pool, device, shareID) must match a result."""

    driver: str
    pool: str
    device: str
    share_id: str | None = msgspec.field(default=None, name="shareID")
    conditions: NullableList[Condition] = []
    network_data: NetworkDeviceData | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "conditions", self.conditions or [])


class ReportedDeviceStatus(AllocatedDeviceStatus, frozen=True, kw_only=True):
    """status.devices[] as we write it. `data` is free JSON: what other drivers put there is not read."""

    data: dict[str, Any] | None = None


class ResourceClaimStatus(Wire, frozen=True, kw_only=True):
    """status of a claim."""

    allocation: AllocationResult | None = None
    reserved_for: list[ResourceClaimConsumerReference] = []
    devices: list[AllocatedDeviceStatus] = []


class ResourceClaim(Wire, frozen=True, kw_only=True):
    """Namespaced."""

    metadata: ObjectMeta = ObjectMeta()
    spec: ResourceClaimSpec = ResourceClaimSpec()
    status: ResourceClaimStatus = ResourceClaimStatus()


class ResourceClaimTemplateSpec(Wire, frozen=True, kw_only=True):
    """spec of a template: labels and annotations for the claim, and its spec."""

    metadata: ObjectMeta = ObjectMeta()
    spec: ResourceClaimSpec = ResourceClaimSpec()


class ResourceClaimTemplate(Wire, frozen=True, kw_only=True):
    """Namespaced; kube-controller-manager makes a claim from it for each pod that names it."""

    metadata: ObjectMeta = ObjectMeta()
    spec: ResourceClaimTemplateSpec = ResourceClaimTemplateSpec()


class DeviceClassSpec(Wire, frozen=True, kw_only=True):
    """spec of a class."""

    selectors: list[DeviceSelector] = []
    config: list[DeviceClassConfig] = []
    extended_resource_name: str | None = None


class DeviceClass(Wire, frozen=True, kw_only=True):
    """Cluster-scoped."""

    metadata: ObjectMeta = ObjectMeta()
    spec: DeviceClassSpec = DeviceClassSpec()
