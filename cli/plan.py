"""`tandem plan`: where pods and claims would go, and with which pairs, without touching anything."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cli.plan_input import from_cluster, read
from controller.allocator.cel import CelCache
from controller.planning import Plan, plan
from controller.settings import PlacementSettings
from controller.strays import why_stray
from driver.errors import InvalidObjectError, KubeError, TandemError
from driver.kube.client import KubeClient
from driver.names import DRIVER_NAME

PLACED, FAILED, INVALID, WAITING = 0, 1, 2, 3
"""Exit statuses: everything has a place; the cluster does not answer; the input is wrong; something waits."""


def run(argv: Sequence[str]) -> int:
    """Print the plan; returns one of the exit statuses above."""
    options = _parser().parse_args(argv)
    try:
        if options.file:
            objects, skipped = read(options.file, options.driver_name)
        else:
            client = KubeClient.load(options.kubeconfig, user_agent="tandem-plan", timeout_seconds=60.0)
            objects, skipped = from_cluster(client, _warn), []
        found = plan(
            objects, PlacementSettings(driver_name=options.driver_name), CelCache(), time.perf_counter
        )
        shown = _render(found, options.output)
    except InvalidObjectError as error:
        print(f"tandem plan: {error}", file=sys.stderr)
        return INVALID
    except KubeError as error:
        print(f"tandem plan: {error}", file=sys.stderr)
        return FAILED
    except TandemError as error:
        print(f"tandem plan: {error}", file=sys.stderr)
        return INVALID if options.file else FAILED
    for stray in found.state.pools.strays:
        print(f"tandem plan: {why_stray(stray)}", file=sys.stderr)
    if skipped:
        print(f"tandem plan: passed over, as they place nothing: {', '.join(skipped)}", file=sys.stderr)
    try:
        sys.stdout.write(shown)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
    return PLACED if found.complete else WAITING


def _warn(message: str) -> None:
    print(f"tandem plan: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem plan",
        description="Where pods and claims would go, and with which pairs. Touches nothing.",
        epilog="Exit status: 0 all placed, 3 not all, 2 the input is wrong, 1 the cluster does not answer.",
    )
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        metavar="FILE",
        help="YAML or JSON with Nodes, ResourceSlices, DeviceClasses, ResourceClaims, "
        "ResourceClaimTemplates, Pods, FabricNetworks, Namespaces, PersistentVolumeClaims, "
        "PersistentVolumes, StorageClasses; - is standard input; may be given again. "
        "Without it the live cluster is asked",
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "yaml", "json", "svg"), default="table", help="(%(default)s)"
    )
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="of the live cluster")
    parser.add_argument("--driver-name", default=DRIVER_NAME, metavar="NAME", help="(%(default)s)")
    return parser


def _render(found: Plan, output: str) -> str:
    match output:
        case "json" | "yaml":
            from cli import plan_json

            return plan_json.to_json(found) if output == "json" else plan_json.to_yaml(found)
        case "svg":
            from cli.plan_svg import svg

            return svg(found)
        case _:
            from cli.plan_table import table

            return table(found)
