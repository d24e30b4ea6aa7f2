"""Settings of `tandem kubelet-plugin`: each an option, and a variable of the same name for the manifest."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from driver.errors import ConfigError
from driver.filter import EVERYTHING, Filter
from driver.filter import parse as parse_filter
from driver.names import DRIVER_NAME, OVERLAY_LABEL
from driver.sharing import SHARED_CAPACITY
from driver.slices import SliceOptions

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ALLOCATIONS: Final = ("controller", "scheduler")
_MIG: Final = ("off", "static")
_SWITCH: Final = ("off", "on")
_SHARED: Final = tuple(sorted(SHARED_CAPACITY))
_LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SHIM: Final = "tandem-cni"
"""Name of the CNI shim's binary on our side, where it is on the PATH."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the plugin is told. Directories are as it sees them; `mock_machine` is empty for real hardware.

    The run directory must be at the same path on the host, and so must the state directory with a mock
    machine.
    """

    node_name: str
    driver_name: str
    allocation: Literal["controller", "scheduler"]
    kubeconfig: Path | None
    mock_machine: str
    mock_vfs_per_pf: int | None
    state_dir: Path
    plugins_dir: Path
    registry_dir: Path
    pods_dir: Path
    cdi_dir: Path
    run_dir: Path
    sysfs: Path
    procfs: Path
    dev_root: Path
    cgroups: Path
    overlay: Path | None
    overlay_dir: Path | None
    mig: Literal["off", "static"]
    shared: frozenset[str]
    publish: Filter
    cni_shim: Path | None
    cni_bin_dir: Path
    cni_conf_dir: Path
    rebuild_ledger: bool
    pod_uid: str
    log_level: str

    def slice_options(self) -> SliceOptions:
        """What is published, and how."""
        return SliceOptions(
            controller_taint=self.allocation == "controller",
            mig=self.mig,
            shared=self.shared,
            filter=self.publish,
        )

    @property
    def cni_socket(self) -> Path:
        """Where the CNI shim calls."""
        return self.run_dir / "cni.sock"

    @property
    def records_dir(self) -> Path:
        """Where the CNI shim looks for pod records."""
        return self.run_dir / "pods"


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Options first, then variables (``--node-name`` is ``NODE_NAME``, others ``TANDEM_<OPTION>``), then
    defaults.

    Raises:
        ConfigError: a value is not possible.
        SystemExit: the options are not understood, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="tandem kubelet-plugin",
        description="Publishes this node's GPUs and NICs, and prepares the claims that get them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def option(name: str, default: str, help: str, *, variable: str = "", **kwargs: object) -> None:
        variable = variable or f"TANDEM_{name.upper().replace('-', '_')}"
        parser.add_argument(
            f"--{name}",
            default=environment.get(variable, default),
            help=f"{help} [${variable}]",
            **kwargs,  # type: ignore[arg-type]
        )

    option("node-name", socket.gethostname(), "the Node's name", variable="NODE_NAME")
    option("driver-name", DRIVER_NAME, "name of the DRA driver")
    option(
        "allocation",
        "controller",
        "who allocates: Tandem's controller or kube-scheduler",
        choices=_ALLOCATIONS,
    )
    option("kubeconfig", "", "empty: $KUBECONFIG, else the pod's service account")
    option("mock-machine", "", "simulate this machine, for example dgx-h100")
    option("mock-vfs-per-pf", "", "VFs of each simulated NIC; empty: as the machine has them")
    option("state-dir", "/var/lib/tandem", "where the ledger is; must outlive reboots")
    option("plugins-dir", "/var/lib/kubelet/plugins", "the kubelet's directory of plugins")
    option("registry-dir", "/var/lib/kubelet/plugins_registry", "where the kubelet looks for plugins")
    option("pods-dir", "/var/lib/kubelet/pods", "the kubelet's directory of pods")
    option("cdi-dir", "/var/run/cdi", "where the container runtime looks for CDI files")
    option("run-dir", "/run/tandem", "socket of the CNI shim, and pod records")
    option("sysfs", "/sys", "where sysfs is mounted")
    option("procfs", "/proc", "where procfs is mounted: NVIDIA's part of it tells the nodes of MIG instances")
    option("dev-root", "/dev", "where the host has its character devices")
    option("cgroups", "/sys/fs/cgroup", "where the host's control groups are: they tell when a pod has ended")
    option("overlay", "", "file that corrects the PCIe tree (docs/overlay.md); empty: none")
    option(
        "overlay-dir",
        "",
        f"folder of such files; the Node's label {OVERLAY_LABEL} names one, without it there is none",
    )
    option("mig", "static", "GPUs in MIG mode: as the instances that they have, or not", choices=_MIG)
    option("shared", "", f"types of devices that claims may share by capacity, of {', '.join(_SHARED)}")
    option("publish-filter", "", "YAML file that says which devices are published; empty: all")
    option("cni-shim", shutil.which(SHIM) or "", "CNI shim to put on the host; empty: none")
    option("cni-bin-dir", "/opt/cni/bin", "where the container runtime looks for CNI plugins")
    option("cni-conf-dir", "/etc/cni/net.d", "where it looks for networks")
    option(
        "rebuild-ledger",
        "off",
        "fill a ledger that was lost with the claims that the API gives to this node; needs the right to "
        "list all claims (deploy/components/lost-ledger)",
        choices=_SWITCH,
    )
    option("pod-uid", "", "UID of the plugin's own pod; empty for a plain process", variable="POD_UID")
    option(
        "log-level", "info", "debug, info, warning or error", choices=("debug", "info", "warning", "error")
    )
    values = parser.parse_args(argv)
    # argparse holds options against their choices, but not defaults.
    for name, value, choices in (
        ("--allocation", values.allocation, _ALLOCATIONS),
        ("--log-level", values.log_level, _LOG_LEVELS),
        ("--mig", values.mig, _MIG),
        ("--rebuild-ledger", values.rebuild_ledger, _SWITCH),
    ):
        if value not in choices:
            raise ConfigError(f"{value!r} is none of {', '.join(choices)}", path=name)
    if not _SUBDOMAIN.fullmatch(values.driver_name):
        raise ConfigError(
            f"{values.driver_name!r} is no DNS subdomain such as {DRIVER_NAME}", path="--driver-name"
        )
    vfs = values.mock_vfs_per_pf
    if vfs and not vfs.isdecimal():
        raise ConfigError(f"{vfs!r} is no number of VFs", path="--mock-vfs-per-pf")
    if values.overlay and values.overlay_dir:
        raise ConfigError("is given, and --overlay too: one of them", path="--overlay-dir")
    shared = frozenset(part.strip() for part in values.shared.split(",") if part.strip())
    if unknown := sorted(shared - set(_SHARED)):
        raise ConfigError(f"{unknown[0]!r} is none of {', '.join(_SHARED)}", path="--shared")
    return Settings(
        node_name=values.node_name,
        driver_name=values.driver_name,
        allocation=values.allocation,
        kubeconfig=Path(values.kubeconfig) if values.kubeconfig else None,
        mock_machine=values.mock_machine,
        mock_vfs_per_pf=int(vfs) if vfs else None,
        state_dir=Path(values.state_dir),
        plugins_dir=Path(values.plugins_dir),
        registry_dir=Path(values.registry_dir),
        pods_dir=Path(values.pods_dir),
        cdi_dir=Path(values.cdi_dir),
        run_dir=Path(values.run_dir),
        sysfs=Path(values.sysfs),
        procfs=Path(values.procfs),
        dev_root=Path(values.dev_root),
        cgroups=Path(values.cgroups),
        overlay=Path(values.overlay) if values.overlay else None,
        overlay_dir=Path(values.overlay_dir) if values.overlay_dir else None,
        mig=values.mig,
        shared=shared,
        publish=_filter(values.publish_filter),
        cni_shim=Path(values.cni_shim) if values.cni_shim else None,
        cni_bin_dir=Path(values.cni_bin_dir),
        cni_conf_dir=Path(values.cni_conf_dir),
        rebuild_ledger=values.rebuild_ledger == "on",
        pod_uid=values.pod_uid,
        log_level=values.log_level,
    )


def _filter(file: str) -> Filter:
    if not file:
        return EVERYTHING
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=f"--publish-filter {file}") from error
    return parse_filter(text, source=file)
