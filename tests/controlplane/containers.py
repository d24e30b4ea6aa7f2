"""Containers made with unshare: namespaces of their own, and one first process whose end is the end of
everything inside.

The whole cluster is one such container and its nodes are containers inside it. So one SIGKILL takes down
processes, mounts, links and namespaces together, the machine itself sees one link, and nothing but cgroups
and files is left to be removed by hand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from tests.controlplane.commands import run
from tests.controlplane.errors import CommandError
from tests.controlplane.wait import wait_for

HOLDER = Path(__file__).with_name("holder.py")
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")

Life = Literal["owned", "kept"]


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `pid` is its first process as the machine counts."""

    name: str
    pid: int

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv`, to be run inside."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, "--", *argv]

    def start(self, argv: Sequence[str], env: Mapping[str, str], output: IO[bytes] | int) -> int:
        """Starts a process that goes on by itself, a child of the container's first, and returns its id.

        The id is the machine's; 0 if it has ended already. Entering a process namespace takes a fork, so a
        program started plainly would keep a waiting nsenter beside it.
        """
        detached = ["setsid", "--fork", "sh", "-c", 'echo $$; exec "$@" >&2', "sh", *argv]
        entered = subprocess.run(
            self.command(detached),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env=dict(env),
            cwd="/",
            start_new_session=True,
            check=False,
        )
        return self._machine_pid(int(entered.stdout)) if entered.stdout else 0

    def _machine_pid(self, pid: int) -> int:
        """The machine's number for the process that is `pid` inside; 0 if there is none."""
        namespace = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino
        for entry in _processes():
            try:
                if (entry / "ns/pid").stat().st_ino != namespace:
                    continue
                status = (entry / "status").read_text()
            except OSError:
                continue
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
            if int(numbers[-1]) == pid:
                return int(entry.name)
        return 0

    def ip(self, lines: Sequence[str]) -> None:
        """Runs `ip` commands in the network namespace alone: process ids in them are the machine's."""
        batch = "\n".join(lines) + "\n"
        run(["nsenter", "--target", str(self.pid), "--net", "--", "ip", "-batch", "-"], stdin=batch)

    def sysctl(self, values: dict[str, str], optional: bool = False) -> None:
        """Sets network sysctls (keys as paths below /proc/sys/net); `optional` passes over those the kernel
        lacks.
        """
        script = "\n".join(
            f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}"
            if optional
            else f"echo {value} > /proc/sys/net/{key}"
            for key, value in values.items()
        )
        run(["nsenter", "--target", str(self.pid), "--net", "--", "sh", "-euc", script])


def start_owned(name: str) -> tuple[Container, subprocess.Popen[bytes]]:
    """Makes a container that lives as long as this process holds the returned one's stdin open."""
    command = _unshare(name, "owned")
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        first = process.stdout.readline()
        container = find_container(name) if first == b"ready\n" else None
        if container is None:
            output = first + process.stdout.read()
            raise CommandError(command, process.wait(), output.decode(errors="replace"))
    return container, process


def start_inside(outer: Container, name: str) -> Container:
    """Makes a container inside another one, which it lives as long as."""
    outer.start(_unshare(name, "kept"), env=os.environ, output=subprocess.DEVNULL)
    return wait_for(f"container {name}", lambda: find_container(name), 10, 0.005)


def _unshare(name: str, life: Life) -> list[str]:
    holder = [sys.executable, "-I", "-S", str(HOLDER), name, life]
    return ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "--", *holder]


def find_container(name: str) -> Container | None:
    """The running container of that name."""
    for pid, argv in _holders(name):
        if Path(argv[0]).name not in ("unshare", "nsenter"):
            return Container(name, pid)
    return None


def kill_container(name: str, timeout_seconds: float = 20) -> None:
    """Kills the container of that name, with all that runs in it, and waits until it is gone; fine if there
    is none.
    """
    container = find_container(name)
    # unshare, which waits for the holder, ends when that does; alone it is only while a container is being
    # made.
    for pid in [container.pid] if container else [pid for pid, _ in _holders(name)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(f"the end of {name}", lambda: not list(_holders(name)), timeout_seconds, 0.02)


def _holders(name: str) -> Iterator[tuple[int, list[str]]]:
    """Processes (id, argv) that are, or wait for, the holder of that name; a zombie has no argv."""
    for entry in _processes():
        try:
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if len(argv) > 3 and argv[-3] == name and argv[-4] == str(HOLDER):
            yield int(entry.name), argv


def _processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
