from __future__ import annotations

from pathlib import Path

import pytest

from kubeletplugin.podcgroups import PodCgroups

UID = "0f4a2b7c-1d2e-4f60-8a9b-0c1d2e3f4a5b"
_SYSTEMD = UID.replace("-", "_")
LAYOUTS = [
    f"kubepods/pod{UID}",
    f"kubepods/burstable/pod{UID}",
    f"kubepods/besteffort/pod{UID}",
    f"kubepods.slice/kubepods-pod{_SYSTEMD}.slice",
    f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_SYSTEMD}.slice",
    f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{_SYSTEMD}.slice",
    f"some/where/else/kubepods/burstable/pod{UID}",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_version_2_tells_whether_a_pod_has_processes(tmp_path: Path, layout: str) -> None:
    (tmp_path / "cgroup.controllers").touch()
    group = tmp_path / layout
    (group / "cri-containerd-1.scope").mkdir(parents=True)
    pods = PodCgroups(tmp_path)
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert pods.running(["another", UID]) == [UID]
    (group / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert pods.running([UID]) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_version_1_tells_it_by_the_number_of_processes(tmp_path: Path, layout: str) -> None:
    for hierarchy in ("cpu", "pids"):
        (tmp_path / hierarchy / layout / "3ab1").mkdir(parents=True)
    count = tmp_path / "pids" / layout / "pids.current"
    pods = PodCgroups(tmp_path)
    count.write_text("0\n")
    assert pods.running([UID]) == []
    count.write_text("2\n")
    assert pods.running([UID]) == [UID]


def test_a_pod_that_is_not_here_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "pids/kubepods/burstable").mkdir(parents=True)
    assert PodCgroups(tmp_path).running([UID]) == []


def test_where_the_kubelet_keeps_no_groups_of_pods_nothing_is_said_to_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pods = PodCgroups(tmp_path / "none")
    assert pods.running([UID]) == []
    assert "no control groups of pods" in caplog.text
    group = tmp_path / "none/pids/kubepods" / f"pod{UID}"
    group.mkdir(parents=True)  # the kubelet starts later
    (group / "pids.current").write_text("1\n")
    assert pods.running([UID]) == [UID]


def test_who_does_not_see_its_own_pod_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    group = tmp_path / f"pids/kubepods/burstable/pod{UID}"
    group.mkdir(parents=True)
    (group / "pids.current").write_text("3\n")
    pods = PodCgroups(tmp_path)
    pods.check("")
    pods.check(UID)
    assert caplog.text == ""
    (group / "pids.current").unlink()
    pods.check(UID)
    assert "do not show that this very pod runs" in caplog.text
