"""`tandem explain claim/NAME`: why a claim of the live cluster waits, or where it is and with which pairs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.plan_input import from_cluster
from controller.allocator.cel import CelCache
from controller.explaining import explain, state_of
from controller.settings import PlacementSettings
from controller.strays import why_stray
from driver.errors import TandemError
from driver.kube.client import KubeClient
from driver.names import DRIVER_NAME

ALLOCATED, FAILED, WAITING = 0, 1, 3
"""Exit statuses: it has its devices; there is no such claim, or no answer; it waits."""


def run(argv: Sequence[str]) -> int:
    """Print the explanation; returns one of the exit statuses above."""
    options = _parser().parse_args(argv)
    try:
        client = KubeClient.load(options.kubeconfig, user_agent="tandem-explain", timeout_seconds=60.0)
        state = state_of(from_cluster(client, _warn), options.driver_name)
    except TandemError as error:
        print(f"tandem explain: {error}", file=sys.stderr)
        return FAILED
    for stray in state.pools.strays:
        print(f"tandem explain: {why_stray(stray)}", file=sys.stderr)
    settings = PlacementSettings(driver_name=options.driver_name)
    found = explain(state, (options.namespace, options.claim), settings, CelCache())
    subject = f"claim {options.namespace}/{options.claim}"
    if found is None:
        print(f"tandem explain: there is no {subject}", file=sys.stderr)
        return FAILED
    pods = f" (for {', '.join(found.pods)})" if found.pods else ""
    if found.allocated:
        print(f"{subject}{pods} has its devices: {found.text}")
        return ALLOCATED
    head, *parts = found.text.split("; ")
    print("\n  ".join([f"{subject}{pods} waits: {head}", *parts]))
    return WAITING


def _warn(message: str) -> None:
    print(f"tandem explain: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem explain",
        description="Why a claim waits, in the controller's own words, or which pairs it got and where.",
        epilog="Exit status: 0 it has its devices, 3 it waits, 1 there is no such claim or no answer.",
    )
    parser.add_argument("claim", metavar="claim/NAME", type=_claim, help="the claim")
    parser.add_argument("-n", "--namespace", default="default", metavar="NAMESPACE", help="(%(default)s)")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="of the cluster")
    parser.add_argument("--driver-name", default=DRIVER_NAME, metavar="NAME", help="(%(default)s)")
    return parser


def _claim(text: str) -> str:
    kind, _, name = text.partition("/")
    if kind not in ("claim", "resourceclaim", "resourceclaims") or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not claim/NAME")
    return name
