"""Which pods run on a node, seen in its process table: the API may say otherwise for seconds."""

from __future__ import annotations

import secrets
import sys

from tests.controlplane import Node, wait_for

_LOOK = """
import pathlib, time
def look():
    names = set()
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            names |= {part[4:] for part in file.read_text().split("\\0") if part.startswith("pod:")}
        except OSError:
            pass
    print(*sorted(names), flush=True)
"""
_WATCH = f"""{_LOOK}
while True:
    look()
    time.sleep(0.03)
"""


def running_pods(node: Node) -> set[str]:
    """Whose shells run on the node now."""
    return set(node.run([sys.executable, "-I", "-c", f"{_LOOK}look()"]).stdout.split())


class PodWatch:
    """Looks at a node's process table many times a second: which pods' shells run, whatever the API says."""

    def __init__(self, node: Node) -> None:
        self._first_line = f"watch {secrets.token_hex(4)}\n"  # those of earlier watches are in the log, too
        program = f"print({self._first_line!r}, end=''){_WATCH}"
        self._process = node.start("pod-watch", [sys.executable, "-I", "-c", program])
        wait_for("the watch to begin", self.samples)

    def samples(self) -> list[set[str]]:
        """Names of pods at each look so far."""
        _, _, text = self._process.log.read_text().partition(self._first_line)
        return [set(line.split()) for line in text.splitlines()[:-1]]

    def wait_seen(self, pod: str) -> None:
        """Returns when the pod's process was seen, which may be a look later than the API says so."""
        wait_for(f"{pod} to be seen", lambda: any(pod in sample for sample in self.samples()))

    def stop(self) -> None:
        """End it."""
        self._process.kill()
