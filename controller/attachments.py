"""Which network the NICs of each request are on, which rails are open to them, and which addresses they get.

A claim names a FabricNetwork in its configuration, or its class does, or one is the default; an admin may
insist by the class. Who names one that is not there, or not for its namespace, learns it here. What is given
away is known from the allocations alone (`AddressBook`), so that another controller goes on at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from controller.addressbook import AddressBook, Given
from controller.allocator.limits import Limit
from controller.networks import Network
from driver.config import Attachment, decode_user
from driver.errors import ConfigError, PermanentError, RetryableError
from driver.kube.fabric import FabricNetwork
from driver.kube.objects import DeviceClass, DeviceSubRequest, ExactDeviceRequest, ResourceClaim

Classes = Mapping[str, DeviceClass]

_KEPT: Final = 1024
"""Claims that were read; those of one Deployment are alike."""


class NetworkRefusedError(PermanentError):
    """A claim may not have the network that it, or its class, names: until somebody edits one of them."""


class NoAddressError(RetryableError):
    """A NIC cannot have an address now; one is free again when a claim is. Attribute `rail`."""

    def __init__(self, message: str, rail: int | None) -> None:
        super().__init__(message)
        self.rail = rail


@dataclass(slots=True)
class Networks:
    """All networks and the namespaces that may use them. Not thread-safe.

    Attributes:
        builtin: for claims that name none and have no default; everybody's.
        trusting: take the labels of a namespace that is not known to match.
    """

    driver_name: str
    builtin: Network | None = None
    trusting: bool = False
    _networks: dict[str, Network] = field(default_factory=dict)
    _faulty: dict[str, str] = field(default_factory=dict)
    _labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _known_claims: dict[tuple[str, bytes, int], Mapping[str, Network]] = field(default_factory=dict)

    def apply(self, old: FabricNetwork | None, new: FabricNetwork | None) -> None:
        """A network changed; addresses that it gave stay in use as long as claims have them."""
        self._known_claims.clear()
        if old is not None:
            self._networks.pop(old.metadata.name, None)
            self._faulty.pop(old.metadata.name, None)
        if new is not None:
            try:
                self._networks[new.metadata.name] = Network.of(new)
            except ConfigError as error:
                self._faulty[new.metadata.name] = str(error)

    def apply_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """A namespace's labels changed; None: it is gone."""
        self._known_claims.clear()
        if labels is None:
            self._labels.pop(name, None)
        else:
            self._labels[name] = labels

    def of(self, claim: ResourceClaim, classes: Classes, generation: int = 0) -> Mapping[str, Network]:
        """Networks by request (``name`` or ``name/subrequest``); a request without one is left out.

        `generation` is another one whenever a class has changed.

        Raises:
            NetworkRefusedError: a network is not there, not valid or not for the claim's namespace, or a
                request has two, or another than its class insists on.
        """
        namespace, spec = claim.metadata.namespace, msgspec.json.encode(claim.spec)
        known = self._known_claims.get((namespace, spec, generation))
        if known is None:
            if len(self._known_claims) >= _KEPT:
                self._known_claims.clear()
            known = self._known_claims[namespace, spec, generation] = self._read(claim, classes)
        return known

    def limits(
        self, claims: Sequence[ResourceClaim], classes: Classes, book: AddressBook, generation: int = 0
    ) -> tuple[Limit | None, ...]:
        """For each claim the rails where its NICs can have addresses; None where all are open.

        A claim has one limit: where two networks of one claim have closed rails, it lets the rails of both
        through, and `choose` has the last word.

        Raises:
            NetworkRefusedError: as `of`.
        """
        return tuple(self._limit(self.of(claim, classes, generation), book) for claim in claims)

    # Beneath

    def _read(self, claim: ResourceClaim, classes: Classes) -> Mapping[str, Network]:
        named = self._named(claim)
        default = self._default(claim.metadata.namespace)
        found = {}
        for request, wanted in _requests(claim):
            name = self._network(request, named, classes.get(wanted.device_class_name))
            network = self._known(name, request, claim.metadata.namespace) if name is not None else default
            if network is not None:
                found[request] = network
        return found

    def _named(self, claim: ResourceClaim) -> list[tuple[frozenset[str], str]]:
        """What the claim itself says: requests (none: all of them) and the network's name."""
        answer = []
        for number, config in enumerate(claim.spec.devices.config):
            if config.opaque is None or config.opaque.driver != self.driver_name:
                continue
            asked = _attachment(bytes(config.opaque.parameters), f"config {number}")
            if asked is not None:
                if asked.enforce:
                    raise NetworkRefusedError(f"config {number}: enforce: only a DeviceClass may say it")
                answer.append((frozenset(config.requests), asked.network))
        return answer

    def _network(
        self, request: str, named: Sequence[tuple[frozenset[str], str]], device_class: DeviceClass | None
    ) -> str | None:
        """The network's name, where the claim or the class says one."""
        main, subject = request.split("/")[0], f'request "{request}"'
        own = {name for requests, name in named if not requests or requests & {request, main}}
        if len(own) > 1:
            raise NetworkRefusedError(f"{subject}: is on two networks, {' and '.join(sorted(own))}")
        ours = next(iter(own), None)
        theirs = self._of_class(device_class) if device_class is not None else None
        if device_class is None or theirs is None:
            return ours
        if theirs.enforce and ours not in (None, theirs.network):
            raise NetworkRefusedError(
                f"{subject}: names FabricNetwork {ours}, but DeviceClass {device_class.metadata.name} "
                f"insists on {theirs.network}"
            )
        return ours or theirs.network

    def _of_class(self, device_class: DeviceClass) -> Attachment | None:
        found = None
        for config in device_class.spec.config:
            if config.opaque is not None and config.opaque.driver == self.driver_name:
                subject = f'DeviceClass "{device_class.metadata.name}"'
                asked = _attachment(bytes(config.opaque.parameters), subject)
                if asked is not None and found is not None and asked != found:
                    raise NetworkRefusedError(f"{subject}: has two Attachments that differ; right is one")
                found = asked or found
        return found

    def _known(self, name: str, request: str, namespace: str) -> Network:
        subject = f'request "{request}"'
        if name in self._faulty:
            raise NetworkRefusedError(f"{subject}: FabricNetwork {name} is not valid: {self._faulty[name]}")
        network = self._networks.get(name)
        if network is None:
            raise NetworkRefusedError(f"{subject}: there is no FabricNetwork {name}")
        if network.pkey is not None:
            raise NetworkRefusedError(
                f"{subject}: FabricNetwork {name} has partition key {network.pkey:#06x}, which only the "
                "subnet manager can give: use a network without one"
            )
        if not self._admitted(network, namespace):
            raise NetworkRefusedError(
                f"{subject}: FabricNetwork {name} is not for namespace {namespace} (its spec.namespaces)"
            )
        return network

    def _default(self, namespace: str) -> Network | None:
        """The first by name of those that are a default for the namespace."""
        return min(
            (n for n in self._networks.values() if n.default and self._admitted(n, namespace)),
            key=lambda network: network.name,
            default=self.builtin,
        )

    def _admitted(self, network: Network, namespace: str) -> bool:
        labels = self._labels.get(namespace)
        return network.admits(namespace, {} if labels is None and not self.trusting else labels)

    def _limit(self, networks: Mapping[str, Network], book: AddressBook) -> Limit | None:
        rails: set[int] = set()
        limited: dict[str, str] = {}
        for request, network in networks.items():
            open_ = _open_rails(network, book)
            if open_ is not None:
                limited[request] = network.title
                rails |= open_
        if not limited:
            return None
        names = " or ".join(sorted(set(limited.values())))
        return Limit(
            frozenset(rails), f"on a rail without a free address of {names}", requests=frozenset(limited)
        )


def both(first: Sequence[Limit | None], second: Sequence[Limit | None]) -> tuple[Limit | None, ...]:
    """What keeps to both, claim by claim. `first` may want rails to be used exactly (a gang's), `second` not;
    an empty one limits nothing.
    """
    if not first or not second:
        return tuple(first or second)
    return tuple(_both(one, other) for one, other in zip(first, second, strict=True))


def _both(one: Limit | None, other: Limit | None) -> Limit | None:
    if one is None or other is None:
        return one or other
    if one.exactly:
        return one if one.rails <= other.rails else replace(other, rails=frozenset(), exactly=True)
    rails, requests = one.rails & other.rails, one.requests & other.requests
    return replace(one if one.railed else other, rails=rails, requests=requests)


def closing(
    rail: int | None, networks: Sequence[Mapping[str, Network]], limits: Sequence[Limit | None]
) -> tuple[Limit | None, ...]:
    """The limits of these claims with one more rail closed (None: all NICs that are on none), which has fewer
    free addresses than NICs were put on it, or none at all; unchanged where no closing helps. `networks`: for
    each claim those of its requests.
    """
    answer = []
    for by_request, limit in zip(networks, limits or [None] * len(networks), strict=True):
        railed = {request: network for request, network in by_request.items() if network.rails}
        if railed and (limit is None or limit.opens(rail)):
            every = frozenset(r for network in railed.values() for r in network.rails)
            before = limit or Limit(every, "")
            names = " or ".join(sorted({network.title for network in railed.values()}))
            off = before.railed or rail is None
            reason = f"on {'no rail, or ' * off}a rail with too few free addresses of {names}"
            rails = frozenset(number for number in before.rails if number != rail)
            limit = Limit(rails, reason, requests=frozenset(railed), railed=off)
        answer.append(limit)
    return tuple(answer)


def choose(network: Network, rail: int | None, book: AddressBook) -> list[Given]:
    """The lowest free addresses for a NIC on that rail (None: on none), one of each family; none where the
    network gives none. They are not taken in the book yet.

    Raises:
        NoAddressError: the rail has no subnet, or a subnet no free address.
    """
    source = network.rail(rail)
    if source is None:
        if not network.rails or (rail is None and not network.name):
            return []
        nic = f"rail {rail}" if rail is not None else "a NIC that is on no rail"
        raise NoAddressError(f"{nic} has no subnet in {network.title}", rail)
    found = []
    for span in source.spans:
        address = book.lowest(network.name, network.spans, span)
        if address is None:
            where = f"rail {rail}: " if network.rails else ""
            raise NoAddressError(f"{where}no free address left in {span.subnet} of {network.title}", rail)
        found.append(Given(network.name, address))
    return found


def _open_rails(network: Network, book: AddressBook) -> set[int] | None:
    """Rails that have a free address of each family; None where nothing has to be said of rails."""
    full = book.full(network.name, network.spans) if network.spans else set()
    if network.everywhere is not None:
        return set() if full & set(network.everywhere.spans) else None
    if not network.rails or (network.every_rail and not full):
        return None
    return {number for number, rail in network.rails.items() if not full & set(rail.spans)}


def _attachment(parameters: bytes, subject: str) -> Attachment | None:
    try:
        asked = decode_user(parameters)
    except ConfigError as error:
        raise NetworkRefusedError(f"{subject}: {error}") from error
    return asked if isinstance(asked, Attachment) else None


def _requests(claim: ResourceClaim) -> Iterator[tuple[str, ExactDeviceRequest | DeviceSubRequest]]:
    for request in claim.spec.devices.requests:
        if request.exactly is not None:
            yield request.name, request.exactly
        for sub in request.first_available:
            yield f"{request.name}/{sub.name}", sub
