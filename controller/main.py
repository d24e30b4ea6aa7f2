"""`tandem controller`: arguments, logs and signals around the Controller."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from controller.leader import LeaseTimes
from controller.loop import Controller
from controller.settings import PlacementSettings, Settings
from driver.errors import TandemError
from driver.kube.client import KubeClient
from driver.names import DRIVER_NAME

log = logging.getLogger(__name__)

_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST_TIMEOUT_SECONDS = 5.0
"""A write that began while we led has ended when another may lead: renewal deadline + this <= lease."""


def parser() -> argparse.ArgumentParser:
    """The command line; `tandem controller --help` shows it."""
    out = argparse.ArgumentParser(
        prog="tandem controller", description="Allocates the claims for Tandem's devices, aligned in pairs."
    )
    out.add_argument("--driver-name", default=DRIVER_NAME, help="whose devices to allocate (%(default)s)")
    out.add_argument("--kubeconfig", type=Path, help="else $KUBECONFIG, else the pod's service account")
    out.add_argument("--namespace", default="", help="where the Lease lies (own, else tandem-system)")
    out.add_argument("--lease-name", default="tandem-controller", help="(%(default)s)")
    out.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="off: always decide",
    )
    out.add_argument("--lease-seconds", type=float, default=15.0, help="followers wait so long (%(default)g)")
    out.add_argument(
        "--renew-seconds", type=float, default=10.0, help="a leader writes so long (%(default)g)"
    )
    out.add_argument("--retry-seconds", type=float, default=2.0, help="between renewals (%(default)g)")
    out.add_argument(
        "--fabric-cidr", type=ip_network, help="cut into one subnet a rail; without it NICs get no addresses"
    )
    out.add_argument("--rail-prefix-length", type=int, default=24, help="of each rail's subnet (%(default)d)")
    out.add_argument("--mtu", type=int, help="of the interfaces in the pods, in bytes (left as they are)")
    out.add_argument(
        "--bind-timeout-seconds",
        type=float,
        default=15.0,
        help="take an allocation back that no pod was bound with for so long (%(default)g)",
    )
    out.add_argument("--http-port", type=int, default=8080, help="status and metrics; 0: any (%(default)d)")
    out.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return out


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings of a command line."""
    return Settings(
        placement=PlacementSettings(
            driver_name=args.driver_name, bind_timeout_seconds=args.bind_timeout_seconds, mtu=args.mtu
        ),
        namespace=args.namespace or _own_namespace(),
        lease=LeaseTimes(args.lease_seconds, args.renew_seconds, args.retry_seconds),
        leader_elect=args.leader_elect,
        lease_name=args.lease_name,
        fabric_cidr=args.fabric_cidr,
        rail_prefix_length=args.rail_prefix_length,
        http_port=args.http_port,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=args.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    try:
        client = KubeClient.load(
            args.kubeconfig, user_agent="tandem-controller", timeout_seconds=_REQUEST_TIMEOUT_SECONDS
        )
        controller = Controller(client, settings_from(args), identity)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: controller.stop())
        controller.run()
    except (TandemError, OSError, ValueError) as error:
        log.error("%s", error)  # noqa: TRY400  # a setting or the cluster is wrong, not the program
        return 1
    return 0


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        return "tandem-system"


if __name__ == "__main__":
    sys.exit(main())
