"""How long a NIC takes into a pod and home, beside the stock way.

CNI ADD and DEL as a container runtime makes them: the shim is executed; server, engine and ledger do the work
in a process of their own. The other arm is the CNI project's `host-device` plugin on the same kind of netdev,
in the same run, alternating; its address comes from the stock `static` IPAM plugin.

    python -m bench.attach [--rounds 100]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.report import Goal, finish, percentile, progress, summary
from cni.build import build
from driver.names import pci_altname
from kubeletplugin.attach.engine import AttachEngine
from kubeletplugin.attach.server import CniServer
from kubeletplugin.attach.store import Attachment
from kubeletplugin.claims import Consumer
from kubeletplugin.ledger import Ledger
from kubeletplugin.planner import Plan
from tests.controlplane.build import TOOLS, find_programs

ADDRESS = "ffff:f0:00.1"  # no machine has it
CIDR = "10.200.0.1/24"
POD = "0b9c9e6e-1111-2222-3333-444455556666"
PREVIOUS = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": []}
WARM_UP_ROUNDS = 3
PAUSE_SECONDS = 0.05, 0.1
_TAG = f"{os.getpid() % 0xFFFFF:x}"


@dataclass(frozen=True)
class Arm:
    """A CNI plugin and its configuration; `claims` says whether the pod has our NIC claim."""

    name: str
    binary: Path
    config: dict[str, object]
    pod_uid: str = POD

    def call(self, command: str, netns: str, container: str) -> float:
        """Run the plugin once; returns seconds."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": "net1",
            "CNI_PATH": str(self.binary.parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_UID={self.pod_uid};K8S_POD_NAMESPACE=a;K8S_POD_NAME=b",
        }
        stdin = json.dumps(self.config).encode()
        start = time.perf_counter()
        done = subprocess.run([self.binary], input=stdin, env=environment, capture_output=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{self.name} {command}: {(done.stdout + done.stderr).decode()}")
        return seconds


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    stock = find_programs([TOOLS["cni"]])
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-bench-")))
        arms = [
            Arm("host-device", stock["host-device"], host_device_config(f"bhd{_TAG}")),
            Arm("tandem", build(root / "bin" / "tandem"), tandem_config(root)),
            Arm("tandem, pod without claims", root / "bin" / "tandem", tandem_config(root), "no-claims"),
        ]
        stack.enter_context(netdevs())
        stack.enter_context(plugin(root))
        times = measure(arms, arguments.rounds)
    results = {
        f"{arm.name}: {command}": summary([seconds * 1000 for seconds in times[arm.name, command]])
        | {"unit": "ms"}
        for arm in arms
        for command in ("ADD", "DEL")
    }
    ratio = percentile(times["tandem", "ADD"], 50) / percentile(times["host-device", "ADD"], 50)
    finish("attach", results, [Goal("attach_add_p50_vs_host_device", ratio, "ratio", 0.4)])


def measure(arms: list[Arm], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds by (arm, command), the arms taking turns in one namespace, which each leaves as it was.

    One for all, and a pause before each call: the kernel's removal of a namespace (the stock plugin makes a
    temporary one a call) goes on behind the back of whoever comes next. The pause is of random length, since
    the move waits for the kernel's RCU, which goes by ticks: equal pauses would keep each call in one phase.
    """
    times: dict[tuple[str, str], list[float]] = {(arm.name, c): [] for arm in arms for c in ("ADD", "DEL")}
    pauses = random.Random(1)  # noqa: S311
    netns = f"tandem-bench-{_TAG}"
    ip("netns", "add", netns)
    try:
        for number in range(-WARM_UP_ROUNDS, rounds):
            for arm in arms:
                for command in ("ADD", "DEL"):
                    time.sleep(pauses.uniform(*PAUSE_SECONDS))
                    seconds = arm.call(command, netns, f"sandbox{number}")
                    if number >= 0:
                        times[arm.name, command].append(seconds)
            if number % 20 == 19:
                progress(f"{number + 1}/{rounds} rounds")
    finally:
        ip("netns", "delete", netns)
    return times


def host_device_config(device: str) -> dict[str, object]:
    """Configuration of the stock plugin for one netdev, with the address that ours gives."""
    ipam = {"type": "static", "addresses": [{"address": CIDR}]}
    return {"cniVersion": "1.0.0", "name": "bench", "type": "host-device", "device": device, "ipam": ipam}


def tandem_config(root: Path) -> dict[str, object]:
    """Configuration of ours, as libcni hands it over."""
    return {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "tandem",
        "socket": str(root / "cni.sock"),
        "podRecords": str(root / "pods"),
        "prevResult": PREVIOUS,
    }


@contextlib.contextmanager
def netdevs() -> Iterator[None]:
    """A veth as PF, and one macvlan of it for each arm."""
    pf = f"bpf{_TAG}"
    ip("link", "add", pf, "type", "veth", "peer", "name", f"bpp{_TAG}")
    try:
        ip("link", "set", pf, "up")
        for name in (f"bhd{_TAG}", f"btd{_TAG}"):
            ip("link", "add", "link", pf, "name", name, "type", "macvlan", "mode", "bridge")
        ip("link", "property", "add", "dev", f"btd{_TAG}", "altname", pci_altname(ADDRESS))
        yield
    finally:
        ip("link", "delete", pf)


@contextlib.contextmanager
def plugin(root: Path) -> Iterator[None]:
    """The plugin's half in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_serve, args=(root, ready, done))
    process.start()
    if not ready.wait(30):
        process.terminate()
        raise SystemExit("the server did not come up")
    yield
    done.set()
    process.join()


def _serve(root: Path, ready: Event, done: Event) -> None:
    ledger = Ledger(root / "ledger.db", boot_id="bench", instance="bench")
    nic = Attachment(
        claim_uid="claim",
        claim="a/claim",
        device="vf",
        pci_address=ADDRESS,
        interface="net1",
        addresses=(CIDR,),
        mtu=1400,
    )
    pods = (Consumer(POD, "b"),)
    ledger.begin_prepare(Plan("claim", "a", "claim", (), (nic,), pods, joinable=False))
    ledger.finish_prepare("claim", pods)
    server = CniServer(root / "cni.sock", AttachEngine(ledger, lambda *_: None, root / "attach.lock").handle)
    server.start()
    ready.set()
    done.wait()
    server.stop()
    ledger.close()


def ip(*arguments: str) -> None:
    """Run iproute2's ip."""
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
