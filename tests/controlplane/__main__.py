"""`python -m tests.controlplane`: a cluster from the command line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.controlplane import build, packages, state
from tests.controlplane.build import TOOLS, say
from tests.controlplane.cluster import RUNNING_CLUSTER, Cluster
from tests.controlplane.config import Options
from tests.controlplane.errors import ControlPlaneError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.controlplane", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    making = commands.add_parser("build", help="build the cluster's programs, where they are not there yet")
    making.add_argument(
        "tools", nargs="*", metavar="TOOL", help=f"of {', '.join(TOOLS)}; default: what a cluster needs"
    )

    commands.add_parser("packages", help="install the machine's packages that a cluster and the images need")

    up = commands.add_parser("up", help="start a cluster, leave it running, print its kubeconfig's path")
    up.add_argument("--nodes", type=int, default=2)
    up.add_argument("--fake-nodes", type=int, default=0, help="more Node objects, without kubelets")
    up.add_argument("--feature-gate", action="append", default=[], metavar="NAME=BOOL")
    up.add_argument("--runtime-config", action="append", default=[], metavar="GROUP/VERSION=BOOL")

    down = commands.add_parser("down", help="end it, and remove it with all that dead predecessors left")
    execute = commands.add_parser("exec", help="run a command on a node")
    execute.add_argument("node")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    kubectl = commands.add_parser(
        "kubectl", help="kubectl, as administrator", prefix_chars="\0", add_help=False
    )
    kubectl.add_argument("argv", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    kubectl.set_defaults(state=_default_state())
    for command in (up, down, execute):
        text = "default: $TANDEM_CLUSTER, else %(default)s"
        command.add_argument("--state", type=Path, default=_default_state(), metavar="DIR", help=text)
    return parser


def _default_state() -> Path:
    return Path(os.environ.get(RUNNING_CLUSTER) or state.root() / "default")


def _build(arguments: argparse.Namespace) -> None:
    if unknown := set(arguments.tools) - set(TOOLS):
        raise ControlPlaneError(f"no tool {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    wanted = [TOOLS[name] for name in arguments.tools] or list(build.CLUSTER_TOOLS)
    for directory in build.find_programs(wanted).directories:
        print(directory)


def _up(arguments: argparse.Namespace) -> None:
    gates = dict(gate.split("=", 1) for gate in arguments.feature_gate)
    options = Options(
        feature_gates={name: value.lower() == "true" for name, value in gates.items()},
        runtime_config=arguments.runtime_config,
    )
    begin = time.monotonic()
    cluster = Cluster.create(arguments.nodes, options, arguments.state)
    try:
        if arguments.fake_nodes:
            cluster.add_fake_nodes(arguments.fake_nodes)
        cluster.detach()
    except BaseException:
        cluster.destroy()
        raise
    say(f"{arguments.nodes} nodes Ready in {time.monotonic() - begin:.1f} s")
    print(cluster.kubeconfig)


def _down(arguments: argparse.Namespace) -> None:
    found = state.destroy(arguments.state)
    swept = state.sweep()
    say(
        f"{arguments.state}: {'removed' if found else 'nothing there'}"
        + "".join(f"; {name} too" for name in swept)
    )


def _replace_process(argv: Sequence[str], environment: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execvpe(argv[0], list(argv), environment)


def _command(words: list[str]) -> list[str]:
    """What to run on a node: a shell unless told; `--` before it is allowed."""
    return (words[1:] if words[:1] == ["--"] else words) or ["bash"]


def main() -> int:
    """Runs one command; errors of ours are told without a traceback."""
    arguments = _parser().parse_args()
    try:
        match arguments.command:
            case "build":
                _build(arguments)
            case "packages":
                packages.ensure()
            case "up":
                _up(arguments)
            case "down":
                _down(arguments)
            case "exec":
                node = Cluster.attach(arguments.state).node(arguments.node)
                _replace_process(node.container.command(_command(arguments.argv)), node.environment)
            case "kubectl":
                cluster = Cluster.attach(arguments.state)
                environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
                _replace_process([str(cluster.programs["kubectl"]), *arguments.argv], environment)
    except ControlPlaneError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
