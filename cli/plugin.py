"""`tandem kubelet-plugin` and `tandem healthz`: the kubelet plugin together with the CNI shim's installer."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubeletplugin.settings import Settings

log = logging.getLogger(__name__)


def run(argv: Sequence[str]) -> int:
    """The kubelet plugin, until SIGTERM."""
    from driver.lean import import_lean

    import_lean()  # before the imports that follow
    from kubeletplugin.main import main

    return main(argv, _install_shim)


def healthz(argv: Sequence[str]) -> int:
    """Exit status 0 if the plugin of this pod is well, for the kubelet's exec probes."""
    from kubeletplugin.healthz import OK, ask

    parser = argparse.ArgumentParser(
        prog="tandem healthz", description="Is the kubelet plugin of this pod well?"
    )
    parser.add_argument("--ready", action="store_true", help="also: registered, and slices published")
    # The same variables as the plugin's own options have.
    default = os.environ.get("TANDEM_PLUGINS_DIR", "/var/lib/kubelet/plugins")
    parser.add_argument("--plugins-dir", default=default, help="(%(default)s)")
    default = os.environ.get("TANDEM_DRIVER_NAME", "tandem-dra.io")
    parser.add_argument("--driver-name", default=default, help="(%(default)s)")
    parser.add_argument("--pod-uid", default=os.environ.get("POD_UID", ""), help="else $POD_UID")
    options = parser.parse_args(argv)
    suffix = f"-{options.pod_uid}" if options.pod_uid else ""
    socket = Path(options.plugins_dir) / options.driver_name / f"health{suffix}.sock"
    answer = ask(socket, "readyz" if options.ready else "healthz")
    print(answer, file=sys.stdout if answer == OK else sys.stderr)
    return 0 if answer == OK else 1


def _install_shim(settings: Settings) -> None:
    if settings.cni_shim is None:
        return
    from cni.install import install

    report = install(
        settings.cni_bin_dir,
        settings.cni_conf_dir,
        settings.cni_shim,
        settings.cni_socket,
        settings.records_dir,
    )
    if report.changed:
        log.info("CNI shim: %s", ", ".join(str(path) for path in report.changed))
