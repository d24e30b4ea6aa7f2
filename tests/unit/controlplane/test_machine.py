"""The parts that touch the machine: what they ask of it, and what they say when it has not got it."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.controlplane import packages, state
from tests.controlplane.cgroups import hierarchies
from tests.controlplane.errors import ComponentError, ControlPlaneError, PrerequisiteError, WaitTimeoutError
from tests.controlplane.fake_nodes import LABEL, fake_node
from tests.controlplane.packages import Package
from tests.controlplane.processes import start_time
from tests.controlplane.wait import wait_for

MOUNTINFO = """\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu rw shared:10 master:2 - cgroup cgroup rw,cpu
33 24 254:0 / / rw - ext4 /dev/vda rw
"""


def test_both_versions_of_control_groups_are_found_among_the_mounts() -> None:
    found = hierarchies(MOUNTINFO)
    assert found == [(Path("/sys/fs/cgroup/unified"), True), (Path("/sys/fs/cgroup/cpu"), False)]


def test_missing_packages_are_named_with_the_command_where_we_cannot_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    absent = Package("nftables", "kube-proxy's Service rules", lambda: False)
    there = Package("gcc", "builds runc", lambda: True)
    with pytest.raises(PrerequisiteError) as caught:
        packages.ensure([absent, there])
    assert "nftables: kube-proxy's Service rules" in str(caught.value)
    assert str(caught.value).endswith("apt-get install --yes --no-install-recommends nftables")


def test_a_wait_ends_with_the_first_true_value() -> None:
    values = iter([None, 0, 7, 8])
    assert wait_for("seven", lambda: next(values), 10, 0) == 7


def test_a_wait_that_times_out_says_what_was_seen_last() -> None:
    def probe() -> bool:
        raise AssertionError("2 of 3 pods")

    with pytest.raises(
        WaitTimeoutError, match=r"waited 0 s for three pods; last seen: AssertionError: 2 of 3 pods"
    ):
        wait_for("three pods", probe, 0, 0)


def test_a_wait_lets_unexpected_errors_through() -> None:
    def probe() -> bool:
        raise KeyError("spec")

    with pytest.raises(KeyError):
        wait_for("a pod", probe, 10, 0)


def test_a_failed_component_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    message = str(ComponentError("etcd", "has ended", log))
    assert message.startswith(f"etcd has ended; the end of {log}:\n  line 85\n")
    assert message.endswith("line 99")


def test_a_start_time_names_a_process_that_lives() -> None:
    assert start_time(os.getpid()) > 0
    assert start_time(2**22 + 1) == 0


def test_a_state_directory_belongs_to_one_cluster(tmp_path: Path) -> None:
    directory = tmp_path / "a"
    made = state.create(
        directory, "tandem-0000", IPv4Network("10.89.0.0/16"), ("node-0",), (Path("/programs"),)
    )
    assert state.load(directory) == made
    assert state.alive(made)  # its owner, this process, lives
    with pytest.raises(ControlPlaneError, match="is in use"):
        state.create(directory, "tandem-0001", IPv4Network("10.90.0.0/16"), ("node-0",), ())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert state.load(tmp_path / "b") is None


def test_a_fake_node_is_ready_and_takes_what_is_asked_for() -> None:
    node = fake_node("fake-1", {"rack": "r1"}, {"cpu": "8", "nvidia.com/gpu": "4"})
    assert node["metadata"]["labels"] == {"kubernetes.io/hostname": "fake-1", LABEL: "true", "rack": "r1"}
    assert node["status"]["allocatable"]["cpu"] == "8"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert node["status"]["conditions"][0]["type"] == "Ready"
