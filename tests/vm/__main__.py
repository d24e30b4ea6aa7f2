"""`python -m tests.vm`: the virtual machine from the command line."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.controlplane.build import say
from tests.vm import image, packages
from tests.vm.errors import UnavailableError, VmError
from tests.vm.machine import Machine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("packages", help="install the host's packages that the machine needs")
    commands.add_parser("build", help="build its kernel and root file system, where they are not there yet")
    running = commands.add_parser("run", help="run a shell command in it, in the checkout")
    running.add_argument("--limit", type=int, default=300, metavar="SECONDS")
    running.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


def _run(command: str, limit_seconds: int) -> int:
    unavailable = packages.missing()
    if unavailable:
        raise UnavailableError(unavailable)
    made = image.find()
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as shared,
        Machine(made, command, Path(shared), limit_seconds=limit_seconds) as machine,
    ):
        outcome = machine.wait()
    sys.stdout.write(outcome.output)
    say(f"vm: status {outcome.status} after {time.monotonic() - begin:.1f} s")
    return outcome.status


def main() -> int:
    """Runs one command; errors of ours are told without a traceback."""
    arguments = _parser().parse_args()
    try:
        match arguments.command:
            case "packages":
                packages.ensure()
            case "build":
                print(image.find().initrd.parent)
            case "run":
                words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
                return _run(" ".join(words), arguments.limit)
    except VmError as error:
        say(f"vm: error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
