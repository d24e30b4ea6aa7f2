"""The `tandem` command. A subcommand is imported when called, so that a daemon loads only what it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

COMMANDS: Final = {
    "kubelet-plugin": ("cli.plugin:run", "publish this node's devices and prepare claims (DaemonSet)"),
    "controller": ("controller.main:main", "allocate claims, aligned in pairs (Deployment)"),
    "topology": ("cli.topology:run", "which GPU is near which NIC, and the pairs that Tandem would make"),
    "plan": ("cli.plan:run", "where pods and claims would go, from files or the cluster; touches nothing"),
    "explain": ("cli.explain:run", "why a claim waits, or which pairs it has and where"),
    "healthz": ("cli.plugin:healthz", "is the kubelet plugin of this pod well? (exec probe)"),
}
"""``module:function`` that takes the arguments and returns the exit status, and what it is for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit status: 2 where there is no such command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else ""
    if command in ("", "-h", "--help", "help"):
        print(usage())
        return 0
    if command not in COMMANDS:
        print(f"tandem: {command!r} is not a command\n\n{usage()}", file=sys.stderr)
        return 2
    module, function = COMMANDS[command][0].split(":")
    return int(getattr(import_module(module), function)(arguments[1:]))


def usage() -> str:
    """The list of commands."""
    lines = ["usage: tandem COMMAND [OPTIONS]", ""]
    lines += [f"  {name:<16} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join([*lines, "", "`tandem COMMAND --help` lists its options."])


if __name__ == "__main__":
    sys.exit(main())
