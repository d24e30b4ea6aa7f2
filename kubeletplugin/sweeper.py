"""What no call will clean up: intents that a killed process left, claims whose end the kubelet never
reported.

The kubelet forgets claims (its state file lost, the claim force-removed), and the API may call a device
free while its old pod still runs. A claim goes only when both are true: the API no longer gives it to
this node, and its pods are gone from it. The kubelet removes a pod's directory after its containers,
which is how we know.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from driver.errors import KubeNotFoundError, TandemError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.objects import ResourceClaim
from kubeletplugin import claims
from kubeletplugin.cdi import CdiFiles
from kubeletplugin.ledger import ClaimRecord, Ledger
from kubeletplugin.preparer import Preparer

log = logging.getLogger(__name__)


class PodDirectories:
    """The kubelet's directories of pods, by UID."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def gone(self, pod_uids: list[str]) -> bool:
        """Are all these pods gone from the node? False where the kubelet's directory cannot be seen."""
        return self._directory.is_dir() and not any((self._directory / uid).exists() for uid in pod_uids)


class Sweeper:
    """Holds the ledger against the API and the node.

    Attributes:
        lost: what to say while claims are prepared that the ledger does not know; empty where it knows all.

    Args:
        files: tell, where the ledger was lost, whether anything was prepared since the node has started.
        may_list: an empty ledger may be filled with all claims of the API that are this node's.
        on_held: told the names of all devices that the API calls free, or gave to another claim, while
            an old claim still has them; called when they change.
    """

    def __init__(
        self,
        *,
        driver_name: str,
        node_name: str,
        client: KubeClient,
        ledger: Ledger,
        pods: PodDirectories,
        files: CdiFiles,
        may_list: bool = False,
        on_held: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._driver_name = driver_name
        self._node_name = node_name
        self._client = client
        self._ledger = ledger
        self._pods = pods
        self._files = files
        self._may_list = may_list
        self._on_held = on_held
        self._stale: set[str] = set()
        self._reported: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self.lost = ""

    def replay(self, preparer: Preparer) -> None:
        """At start, alone on the node: undo half-made prepares, finish half-made unprepares."""
        for record in self._ledger.claims():
            if record.state != "prepared" and record.owner != self._ledger.instance:
                log.warning(
                    "claim %s was left %s by another process: taking it back", record.plan.title, record.state
                )
                self._try(preparer, record)

    def rebuild(self, preparer: Preparer) -> None:
        """Fill an empty ledger with the claims that the API gives to this node, if claims may be listed. Else
        wait until the pods of all claims that it does not know have ended: a new node has none.

        A NIC that is in a pod comes home with the pod's network namespace; that it is there is not known
        any more.

        Raises:
            KubeError: the API does not answer; the ledger still says that it needs this.
            OSError: the CDI directory cannot be read.
        """
        if not self._may_list:
            self._wait_for_unknown()
            return
        found, _ = self._client.list(
            paths.claims(), ResourceClaim, skip=lambda error: log.warning("ledger: %s", error)
        )
        mine = [claim for claim in found if claims.ours_on(claim, self._driver_name, self._node_name)]
        for claim in mine:
            try:
                preparer.adopt(claim)
            except TandemError as error:
                log.warning("ledger: %s", error)
        self.lost = ""
        self._ledger.rebuilt()
        log.info("ledger: filled from the API, %d claims", len(mine))

    def _wait_for_unknown(self) -> None:
        unknown = self._files.claims() - {record.plan.uid for record in self._ledger.claims()}
        if not unknown:
            self.lost = ""
            self._ledger.rebuilt()
            return
        if not self.lost:
            log.error(
                "ledger: it was lost while %d claims were prepared (%s): what their pods still use when the "
                "claims are gone is not known. Fill it with --rebuild-ledger=on, which needs the right to "
                "list claims (deploy/components/lost-ledger), or drain the node",
                len(unknown),
                ", ".join(sorted(unknown)),
            )
        self.lost = f"the ledger was lost, and {len(unknown)} prepared claims are unknown to it"

    def sweep(self, preparer: Preparer) -> None:
        """Look at every claim. What the API does not answer for stays."""
        for record in self._ledger.claims():
            self.settle(preparer, record.plan.uid)
        self.report()

    def settle(self, preparer: Preparer, uid: str) -> None:
        """Look at one claim, and take it back if it is over; else, if it is stale, its devices are held."""
        record = self._ledger.claim(uid)
        if record is None:
            return
        if record.state != "prepared":
            if record.owner == self._ledger.instance:  # else another instance may be at it
                self._try(preparer, record)
            return
        stale = self._is_stale(record)
        if stale is None:
            return
        with self._lock:
            (self._stale.add if stale else self._stale.discard)(uid)
        if stale and self._pods.gone([consumer.uid for consumer in record.plan.consumers]):
            log.info("claim %s is over and the kubelet has not said so: taking it back", record.plan.title)
            self._try(preparer, record)

    def conflict(self, preparer: Preparer, uid: str) -> None:
        """Another claim was given a device of this one, so this one must be over, or soon."""
        self.settle(preparer, uid)
        with self._lock:
            self._stale.add(uid)
        self.report()

    def report(self) -> None:
        """Say which devices are held, if that has changed."""
        records = self._ledger.claims()
        with self._lock:
            self._stale &= {record.plan.uid for record in records}
            held = frozenset(
                device.device
                for record in records
                if record.plan.uid in self._stale
                for device in record.plan.devices
            )
            if held == self._reported:
                return
            self._reported = held
        self._on_held(held)

    def _is_stale(self, record: ClaimRecord) -> bool | None:
        """Does the API no longer give the claim to this node? None where it does not say."""
        plan = record.plan
        try:
            claim = self._client.get(paths.claim(plan.namespace, plan.name), ResourceClaim)
        except KubeNotFoundError:
            return True
        except TandemError as error:
            log.debug("claim %s: %s", plan.title, error)
            return None
        return claim.metadata.uid != plan.uid or not claims.ours_on(claim, self._driver_name, self._node_name)

    def _try(self, preparer: Preparer, record: ClaimRecord) -> None:
        try:
            preparer.take_back(record.plan.uid, wait=False)
        except TandemError as error:
            log.warning("claim %s: %s", record.plan.title, error)
