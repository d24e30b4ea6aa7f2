"""An engine to attach with: real namespaces and netdevs, and a store in memory."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.netns import Netns
from kubeletplugin.attach.protocol import CniCall, Reply
from kubeletplugin.attach.store import Attachment
from tests.unit.attach.machine import Machine, show
from tests.unit.attach.memory import MemoryStore

PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.0.0.5/24", "interface": 0}],
    "dns": {"nameservers": ["10.96.0.10"]},
}


@dataclass
class Bench:
    machine: Machine
    store: MemoryStore
    engine: AttachEngine

    def claim(self, uid: str, pod: str, number: int, **fields: Any) -> Attachment:
        row = Attachment(
            claim_uid=uid,
            claim=f"team/{uid}",
            device=f"vf-{number}",
            pci_address=self.machine.vf(number),
            interface=fields.pop("interface", f"net{number}"),
            **fields,
        )
        self.store.prepare(pod, row)
        return row

    def restarted(self) -> AttachEngine:
        """Another process on the node, as far as locks go."""
        return AttachEngine(self.store, lambda *_: None, self.engine._locks._path)

    def home(self, row: Attachment) -> dict[str, Any] | None:
        return show(None, self.machine.vfs[row.pci_address])

    def call(
        self, command: str, pod: str, netns: str | None, container: str = "sandbox-1", **config: Any
    ) -> Reply:
        config = {"cniVersion": "1.1.0", "prevResult": PREVIOUS} | config
        path = f"/run/netns/{netns}" if netns else ""
        args = {"K8S_POD_UID": pod, "K8S_POD_NAMESPACE": "team", "K8S_POD_NAME": f"pod-{pod}"}
        call = CniCall(command, container, path, "eth0", args, config)
        with contextlib.ExitStack() as stack:
            fd = os.open(path, os.O_RDONLY) if path and Path(path).exists() else None
            if fd is not None:
                stack.callback(os.close, fd)
            return self.engine.handle(call, fd)

    def add(self, pod: str, netns: str | None, container: str = "sandbox-1") -> dict[str, Any]:
        reply = self.call("ADD", pod, netns, container)
        assert reply.exit_code == 0
        result: dict[str, Any] = json.loads(reply.stdout)
        return result


def read_in(netns: str, path: str) -> str:
    pod = Netns.at(f"/run/netns/{netns}")
    assert pod is not None
    with pod:
        return pod.run(lambda: Path(path).read_text().strip())
