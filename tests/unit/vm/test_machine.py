from __future__ import annotations

import lzma
import struct
from pathlib import Path

import pytest

from tests.vm.errors import UnavailableError
from tests.vm.image import Image, _release, uncompressed_kernel
from tests.vm.machine import kvm_usable, qemu_arguments
from tests.vm.packages import ARCHIVE_KEYS, backports, sources
from tests.vm.topology import Device, RootComplex, Switch, arguments

IMAGE = Image(Path("/image/vmlinux"), Path("/image/initrd"))


def host(root: Path, flags: str, *, paravirtual: bool = False) -> Path:
    for folder in ("dev", "proc", "sys/module"):
        (root / folder).mkdir(parents=True)
    (root / "dev/kvm").write_bytes(b"")
    (root / "proc/cpuinfo").write_text(f"flags : fpu {flags} sse\n")
    if paravirtual:
        (root / "sys/module/kvm_pvm").mkdir()
    return root


def test_kvm_is_used_where_the_processor_has_it(tmp_path: Path) -> None:
    assert kvm_usable(host(tmp_path, "vmx"))


def test_kvm_is_not_used_without_the_device_the_flag_or_with_the_paravirtual_kind(tmp_path: Path) -> None:
    assert not kvm_usable(tmp_path)
    assert not kvm_usable(host(tmp_path / "plain", "sse4"))
    assert not kvm_usable(host(tmp_path / "cloud", "svm", paravirtual=True))


def test_a_comma_in_a_path_is_no_separator_to_qemu() -> None:
    words = qemu_arguments(IMAGE, Path("/tmp/a,b"), 60, kvm=False)
    assert "local,id=out,path=/tmp/a,,b,security_model=none" in words


def test_shares_but_the_answers_folder_are_read_only() -> None:
    words = qemu_arguments(IMAGE, Path("/tmp/out"), 60, kvm=False)
    shares = [word for word in words if word.startswith("local,id=")]
    assert [word.endswith(",readonly=on") for word in shares] == [True, True, False]


def test_a_topology_becomes_ports_that_hang_together() -> None:
    machine = (RootComplex(0, 0x20, (Switch((Device("nic0", "nic"), Device("gpu0", "gpu"))),)),)
    words = [word for word in arguments(machine) if ",bus=" in word]
    ids = {
        field.removeprefix("id=") for word in words for field in word.split(",") if field.startswith("id=")
    }
    buses = {
        field.removeprefix("bus=") for word in words for field in word.split(",") if field.startswith("bus=")
    }
    assert buses - ids == {"pcie.0"}
    chassis = [field for word in words for field in word.split(",") if field.startswith("chassis=")]
    assert len(chassis) == len(set(chassis)) == 3


@pytest.mark.parametrize(
    ("targets", "line"),
    [
        (
            [
                "bookworm-security|Debian-Security|http://a/s",
                "bookworm|Debian|http://a/d",
                "x|Other|http://b",
            ],
            f"deb [signed-by={ARCHIVE_KEYS}] http://a/d bookworm-backports main",
        ),
        (["bookworm-security|Debian-Security|http://a/s", "bookworm|vendor|http://b"], None),
        ([], None),
    ],
)
def test_backports_come_from_where_the_host_takes_its_release(targets: list[str], line: str | None) -> None:
    assert backports(targets, "bookworm") == line


def test_a_release_comes_with_its_updates_and_without_backports_of_others() -> None:
    targets = [
        "bookworm-security|Debian-Security|http://s",
        "bookworm|Debian|http://d",
        "trixie|Debian|http://d",
    ]
    signed = f"deb [signed-by={ARCHIVE_KEYS}]"
    assert sources([*targets, targets[2]], "bookworm") == [
        f"{signed} http://s bookworm-security main",
        f"{signed} http://d bookworm main",
    ]


def test_a_kernel_is_unpacked_from_its_boot_image() -> None:
    elf = b"\x7fELF" + bytes(range(256)) * 8
    payload = lzma.compress(elf)
    image = bytearray(1024)
    image[0x1F1] = 1
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    assert uncompressed_kernel(bytes(image) + bytes(16) + payload + b"more") == elf


def test_a_kernel_in_another_compression_is_left_to_unpack_itself() -> None:
    image = bytes(4096)
    assert uncompressed_kernel(image) == image


def test_a_python_that_no_debian_has_is_named_with_those_that_do() -> None:
    with pytest.raises(UnavailableError, match=r"Python 3\.12.*3\.11, 3\.13"):
        _release((3, 12))
