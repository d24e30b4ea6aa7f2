"""Sees every change of every claim, in the API server's own order, and holds it to the laws of allocation.

It shares no code with the controller's books: events come from its own watch, as plain JSON.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.controlplane import Cluster, wait_for
from tests.controlplane.api import ApiError

_CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
_FINALIZER = "resource.kubernetes.io/delete-protection"
_KEPT = 300

Thing = tuple[str, str, str]
"""What one claim alone may have: ("device", pool, device) or ("address", address, "")."""


class Witness:
    """`faults` are sentences; a test that ends well has none."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = cluster.connect()
        self._claims: dict[str, Any] = {}
        self._holders: dict[Thing, set[str]] = {}
        self._history: deque[str] = deque(maxlen=_KEPT)
        self._stopping = threading.Event()
        self._began = threading.Event()
        self.faults: list[str] = []
        self.allocations = 0
        """How many it saw written."""
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()
        assert self._began.wait(20), "the witness cannot list claims"

    def check(self) -> None:
        """Raises AssertionError with all faults so far."""
        assert not self.faults, "\n".join([*self.faults, self.describe()])

    def wait_for(self, claims: Mapping[str, Iterable[Any]]) -> None:
        """Returns when it has seen these claims (of whatever) as they are there."""
        wanted = [claim["metadata"] for group in claims.values() for claim in group]

        def has_seen() -> bool:
            known = {uid: claim["metadata"]["resourceVersion"] for uid, claim in list(self._claims.items())}
            return all(int(known.get(m["uid"], 0)) >= int(m["resourceVersion"]) for m in wanted)

        wait_for("the witness", has_seen)

    def describe(self) -> str:
        """What it saw last."""
        return "\n".join(["what the witness saw last:", *self._history])

    def stop(self) -> None:
        """Ends the watch."""
        self._stopping.set()
        self._api.interrupt()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                for event in self._api.watch(_CLAIMS, self._list()):
                    if event["type"] == "ERROR":
                        break
                    self._see(event["object"], gone=event["type"] == "DELETED")
            except (ApiError, OSError) as error:
                self._history.append(f"cannot see: {error}")
                self._stopping.wait(0.2)

    def _list(self) -> str:
        """After a gap, what was let go of in it goes first."""
        listed = self._api.get(_CLAIMS)
        fresh = {item["metadata"]["uid"]: item for item in listed["items"]}
        for uid, known in list(self._claims.items()):
            if uid not in fresh or not things(known) <= things(fresh[uid]):
                self._see(known, gone=True)
        for item in fresh.values():
            self._see(item, gone=False)
        self._began.set()
        return str(listed["metadata"]["resourceVersion"])

    def _see(self, claim: Any, *, gone: bool) -> None:
        metadata = claim["metadata"]
        uid, name = metadata["uid"], metadata["name"]
        before = things(self._claims.get(uid, {}))
        now = set() if gone else things(claim)
        for thing in before - now:
            self._holders[thing].discard(name)
        for thing in now - before:
            holders = self._holders.setdefault(thing, set())
            if holders:
                self.faults.append(f"{thing} is given to {name} while {', '.join(holders)} has it")
            holders.add(name)
        if gone:
            self._claims.pop(uid, None)
        else:
            self._claims[uid] = claim
        if now - before:
            self.allocations += 1
            self.faults += [f"{name}: {fault}" for fault in half_done(claim)]
        said = "gone" if gone else ", ".join(sorted("/".join(thing[1:]) for thing in now)) or "nothing"
        finalizer = _FINALIZER in metadata.get("finalizers", [])
        self._history.append(f"@{metadata['resourceVersion']} {name}: {said}; finalizer {finalizer}")


def things(claim: Any) -> set[Thing]:
    """What the claim has."""
    devices = claim.get("status", {}).get("allocation", {}).get("devices", {})
    found: set[Thing] = {("device", r["pool"], r["device"]) for r in devices.get("results", [])}
    for interface in _placement(devices).get("interfaces", []):
        found |= {("address", address, "") for address in interface.get("addresses", [])}
    return found


def half_done(claim: Any) -> Iterator[str]:
    """What an allocated claim lacks."""
    allocation = claim["status"].get("allocation", {})
    devices = allocation.get("devices", {})
    if _FINALIZER not in claim["metadata"].get("finalizers", []):
        yield "allocated without a finalizer"
    if not allocation.get("allocationTimestamp"):
        yield "allocated without a time stamp"
    terms = allocation.get("nodeSelector", {}).get("nodeSelectorTerms", [])
    nodes = {value for term in terms for field in term.get("matchFields", []) for value in field["values"]}
    pools = {result["pool"].rpartition("/")[2] for result in devices.get("results", [])}
    if nodes != pools or len(nodes) != 1:
        yield f"devices of {sorted(pools)} for nodes {sorted(nodes)}"
    wanted = sum(r["exactly"].get("count", 1) for r in claim["spec"]["devices"]["requests"])
    if len(devices.get("results", [])) != wanted:
        yield f"{len(devices.get('results', []))} devices, {wanted} were wanted"
    paired = {device for pair in _placement(devices).get("pairs", []) for device in pair.values()}
    if not {result["device"] for result in devices.get("results", [])} <= paired:
        yield "devices without a pair"


def _placement(devices: Any) -> Any:
    """The controller's word."""
    for entry in devices.get("config", []):
        if entry["source"] == "FromClass" and entry.get("opaque", {}).get("driver") == "tandem-dra.io":
            return entry["opaque"]["parameters"]
    return {}


@contextmanager
def witnessed(cluster: Cluster) -> Iterator[Witness]:
    """A witness for the time of the block, which fails if it saw a fault."""
    witness = Witness(cluster)
    try:
        yield witness
        witness.check()
    finally:
        witness.stop()
