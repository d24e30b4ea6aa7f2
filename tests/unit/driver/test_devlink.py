"""The eswitch's mode by devlink: with the bytes that a kernel sends which has it, and with this kernel."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from driver.attributes import of_nic, of_vf, text_of
from driver.inventory import HostProbe
from driver.mock.nvml import FakeNvml
from driver.probes.devlink import DevlinkProbe
from tests.unit.driver.test_fuzz import NoNetdevs

PF = "0000:18:00.0"
FAMILY = 0x17
Reply = Callable[[int, bytes], bytes]


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def message(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 1) + body


def request(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 1, sequence, 0) + body


def refusal(number: int) -> Reply:
    return lambda sequence, asked: message(2, sequence, struct.pack("=i", -number) + asked[:16])


def family(sequence: int, _: bytes) -> bytes:
    return message(
        16, sequence, struct.pack("=BBH", 1, 2, 0) + attribute(2, b"devlink\0") + attribute(1, b"\x17\0")
    )


def mode(number: int) -> Reply:
    handle = attribute(1, b"pci\0") + attribute(2, PF.encode() + b"\0")
    body = (
        struct.pack("=BBH", 29, 1, 0)
        + handle
        + attribute(26, b"\0")
        + attribute(25, struct.pack("=H", number))
    )
    return lambda sequence, _: message(FAMILY, sequence, body)


class Kernel:
    """Answers requests in turn and keeps them."""

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.requests = list(replies), list[bytes]()

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.settimeout(5)
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, channel: socket.socket) -> None:
        with channel, suppress(OSError):
            while asked := channel.recv(1 << 16):
                self.requests.append(asked)
                _, _, _, sequence, _ = struct.unpack_from("=IHHII", asked)
                channel.send(self.replies.pop(0)(sequence, asked))


@pytest.mark.parametrize(
    ("number", "name"), [(0, "legacy"), (1, "switchdev"), (2, "switchdev_inactive"), (9, "")]
)
def test_the_mode_is_asked_of_the_family_that_devlink_is_here(number: int, name: str) -> None:
    kernel = Kernel(family, mode(number))
    assert DevlinkProbe(kernel.connect).eswitch_mode(PF, 1) == name
    controller = struct.pack("=BBH", 3, 1, 0) + attribute(2, b"devlink\0")
    get = struct.pack("=BBH", 29, 1, 0) + attribute(1, b"pci\0") + attribute(2, PF.encode() + b"\0")
    assert kernel.requests == [request(16, 3, controller), request(FAMILY, 29, get)]


@pytest.mark.parametrize(
    "replies",
    [
        [refusal(errno.ENOENT)],
        [family, refusal(errno.ENODEV)],
        [family, refusal(errno.EOPNOTSUPP)],
    ],
    ids=["no devlink", "no such device", "no switch in it"],
)
def test_no_devlink_and_no_switch_are_answers(replies: list[Reply], caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel(*replies)
    probe = DevlinkProbe(kernel.connect)
    assert probe.eswitch_mode(PF, 1) == probe.eswitch_mode(PF, 1) == ""
    assert len(kernel.requests) == len(replies)
    assert caplog.records == []


def test_it_is_asked_again_only_when_something_may_have_changed() -> None:
    kernel = Kernel(family, mode(0), family, mode(1))
    probe = DevlinkProbe(kernel.connect)
    assert [probe.eswitch_mode(PF, sign) for sign in (1, 1, 2, 2)] == [
        "legacy",
        "legacy",
        "switchdev",
        "switchdev",
    ]
    assert len(kernel.requests) == 4


@pytest.mark.parametrize(
    "reply",
    [refusal(errno.EPERM), lambda _, __: b"", lambda _, __: b"garbage", lambda s, _: message(FAMILY, s, b"")],
    ids=["refused", "nothing", "garbage", "no attributes"],
)
def test_what_nobody_can_say_is_one_log_line_and_the_last_answer_stays(
    reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel(family, mode(1), reply, reply, reply)
    probe = DevlinkProbe(kernel.connect)
    caplog.set_level(logging.WARNING)
    assert [probe.eswitch_mode(PF, sign) for sign in (1, 2, 2)] == ["switchdev"] * 3
    assert len({record.message for record in caplog.records}) == len(caplog.records) == 1
    assert PF in caplog.records[0].message


def test_this_kernel_says_of_a_device_that_is_not_there_that_it_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert DevlinkProbe().eswitch_mode("ffff:ff:1f.7", 1) == ""
    if os.geteuid() == 0:
        assert caplog.records == []


class Eswitches:
    def __init__(self) -> None:
        self.asked: list[object] = []

    def eswitch_mode(self, address: str, sign: object) -> str:
        self.asked.append(sign)
        return "switchdev"


@pytest.mark.usefixtures("nvml")
def test_a_pf_and_its_vfs_publish_the_mode_and_a_vf_that_goes_is_a_sign(sysfs_root: Path) -> None:
    eswitches = Eswitches()
    probe = HostProbe(sysfs_root, netdevs=NoNetdevs(), eswitches=eswitches)
    (nic,) = probe.read().nics
    assert (
        text_of(of_nic(nic)["eswitchMode"]) == text_of(of_vf(nic, nic.vfs[0])["eswitchMode"]) == "switchdev"
    )
    probe.read()
    (sysfs_root / "bus/pci/devices" / PF / "virtfn0").unlink()
    probe.read()
    first, second, third = eswitches.asked
    assert first == second != third


def test_of_another_machines_tree_the_kernel_is_not_asked(sysfs_root: Path, nvml: FakeNvml) -> None:
    (nic,) = HostProbe(sysfs_root, netdevs=NoNetdevs()).read().nics
    assert nic.eswitch_mode == ""
    assert "eswitchMode" not in of_nic(nic)
