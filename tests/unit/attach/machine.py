"""Real netdevs and network namespaces for tests: macvlans with a PCI altname stand where VFs would."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driver.names import pci_altname

_numbers = itertools.count(1)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def show(netns: str | None, name: str) -> dict[str, Any] | None:
    """What `ip` says of one interface, None if it is not there."""
    where = ["-n", netns] if netns else []
    done = subprocess.run(
        ["ip", *where, "-j", "address", "show", "dev", name], check=False, capture_output=True, text=True
    )
    found: dict[str, Any] | None = json.loads(done.stdout)[0] if done.returncode == 0 else None
    return found


@dataclass
class Machine:
    """A PF (one end of a veth pair) with VFs (macvlans) in the test's own namespace, and pods' namespaces."""

    tag: str = field(default_factory=lambda: f"{os.getpid() % 100000:x}{next(_numbers):x}")
    vfs: dict[str, str] = field(default_factory=dict)  # PCI address → name
    pods: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pf = f"tpf{self.tag}"
        ip("link", "add", self.pf, "type", "veth", "peer", "name", f"tcb{self.tag}")
        ip("link", "set", self.pf, "up")
        ip("link", "set", f"tcb{self.tag}", "up")

    def vf(self, number: int) -> str:
        """Make a VF; returns its PCI address, whose bus numbers no machine has."""
        address = f"{int(self.tag, 16) % 0xFFFF:04x}:f{number >> 4:x}:{number & 0xF:02x}.1"
        name = f"tv{self.tag}x{number}"
        ip("link", "add", "link", self.pf, "name", name, "type", "macvlan", "mode", "bridge")
        ip("link", "property", "add", "dev", name, "altname", pci_altname(address))
        self.vfs[address] = name
        return address

    def pod(self) -> str:
        """Make a network namespace; returns its name."""
        name = f"tandem-{self.tag}-{len(self.pods)}"
        ip("netns", "add", name)
        self.pods.append(name)
        return name

    def end(self) -> None:
        for pod in self.pods:
            if Path(f"/run/netns/{pod}").exists():
                ip("netns", "delete", pod)
        ip("link", "delete", self.pf)
