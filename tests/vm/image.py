"""Kernel and initial RAM file system of the guest, from Debian packages alone; kept, since they take half a
minute.

The release is the one whose Python runs the virtual environment's extension modules. mmdebstrap unpacks its
packages into a tar; what the tests do without is left out on the way into the archive, and of the kernel's
modules all but those named here and what they need.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import lzma
import marshal
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.controlplane.build import say
from tests.vm.cpio import CpioWriter
from tests.vm.errors import UnavailableError
from tests.vm.packages import host_targets, sources

RELEASES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Python minor version → the Debian release that has it."""

PACKAGES = (
    "linux-image-amd64",
    "busybox-static",
    "python3-minimal",
    "libpython3-stdlib",
    "libstdc++6",
    "iproute2",
)
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "igb", "igbvf", "macvlan", "bridge", "veth")
FOLDERS = ("checkout", "dev", "modules", "out", "packages", "proc", "root", "run", "sys", "tmp")

_DROPPED = re.compile(
    r"boot/|dev/|etc/apt|lib/(modules|systemd|udev)/|usr/(share|include|games)/|usr/lib/(klibc|systemd)/|var/"
    r"|usr/lib/[^/]+/(gconv|engines-3|perl|ossl-modules)|usr/lib/python3\.\d+/(ensurepip|idlelib|test|lib2to3|pydoc_data)/"
)
_INIT = Path(__file__).with_name("init")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_XZ = b"\xfd7zXZ\0"


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots."""

    kernel: Path
    initrd: Path


def cache_root() -> Path:
    """Where images are kept: $XDG_CACHE_HOME/tandem/vm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem" / "vm"


def find(root: Path | None = None) -> Image:
    """The image of this recipe, built now if it is not there yet.

    A build that is killed leaves nothing that a later one would take for whole.

    Raises:
        UnavailableError: no Debian release has this Python; mmdebstrap is missing or failed.
    """
    release = _release()
    root = root or cache_root()
    target = root / f"{release}-{_key(release)}"
    image = Image(target / "vmlinux", target / "initrd.cpio")
    if target.is_dir():
        return image
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return image
        for half in root.glob(".new.*"):  # a killed predecessor's
            shutil.rmtree(half)
        begin = time.monotonic()
        say(f"vm: building kernel and root file system from Debian {release} (half a minute, once)")
        made = Path(tempfile.mkdtemp(prefix=".new.", dir=root))
        try:
            tar = made / "root.tar"
            _bootstrap(release, tar)
            with tarfile.open(tar, "r:") as source:
                _convert(source, made)
            tar.unlink()
            made.rename(target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        size = image.initrd.stat().st_size >> 20
        say(f"vm: built in {time.monotonic() - begin:.0f} s, {size} MiB in {target}")
    return image


def _release(python: tuple[int, int] = sys.version_info[:2]) -> str:
    try:
        return RELEASES[python]
    except KeyError:
        have = ", ".join(f"{major}.{minor}" for major, minor in RELEASES)
        raise UnavailableError(
            f"no Debian release has Python {python[0]}.{python[1]}, which the guest needs to run what this "
            f"virtual environment holds: make it with Python {have}"
        ) from None


def _key(release: str) -> str:
    """Twelve hex digits that change with anything that decides what is built, but for Debian's updates."""
    digest = hashlib.sha256()
    for part in (release, Path(__file__).read_text(), _INIT.read_text()):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:12]


def _bootstrap(release: str, tar: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    command += ["--dpkgopt=path-exclude=/usr/share/*", release, str(tar)]
    command += sources(host_targets(), release)  # else mmdebstrap's own default
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UnavailableError("mmdebstrap is missing: apt-get install mmdebstrap") from None
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")


def _convert(source: tarfile.TarFile, made: Path) -> None:
    """Write `vmlinux` and `initrd.cpio` from the tar of a root file system."""
    members = {str(PurePosixPath(member.name)): member for member in source}
    kernel = next(name for name in members if name.startswith("boot/vmlinuz-"))
    (made / "vmlinux").write_bytes(uncompressed_kernel(_content(source, members[kernel])))
    modules = {
        PurePosixPath(name).name.split(".ko")[0].replace("-", "_"): member
        for name, member in members.items()
        if ".ko" in name and "lib/modules/" in name
    }
    with (made / "initrd.cpio").open("wb") as stream, contextlib.closing(CpioWriter(stream)) as archive:
        for folder in FOLDERS:
            archive.folder(folder)
        archive.character_device("dev/console", 5, 1)
        archive.file("init", _INIT.read_bytes(), 0o755)
        _add_modules(archive, source, modules)
        for name, member in members.items():
            if name in FOLDERS or name == "." or _DROPPED.match(f"{name}/" if member.isdir() else name):
                continue
            if member.isdir():
                archive.folder(name, member.mode)
            elif member.issym():
                archive.link(name, member.linkname)
            elif member.isfile() or member.islnk():
                content = _content(source, member)
                archive.file(name, content, member.mode)
                if name.startswith("usr/lib/python3") and name.endswith(".py"):
                    _add_bytecode(archive, name, content)


def _add_bytecode(archive: CpioWriter, name: str, source: bytes) -> None:
    """Put a module's bytecode beside it, which the packages' scripts would have done and a guest without
    KVM would take ten times as long for. (The header is PEP 552's for bytecode that is never checked.)
    """
    path = PurePosixPath(name)
    folder = path.parent / "__pycache__"
    code = compile(source, f"/{name}", "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    archive.folder(str(folder))
    archive.file(
        str(folder / f"{path.stem}.{sys.implementation.cache_tag}.pyc"), header + marshal.dumps(code)
    )


def _add_modules(
    archive: CpioWriter, source: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]
) -> None:
    """Put the modules into /modules, and the order in which they load into /modules/order."""
    contents: dict[str, bytes] = {}

    def add(names: Iterable[str]) -> None:
        for name in filter(None, names):
            if name in contents:
                continue
            content = _content(source, members[name]) if name in members else b""
            if content.startswith(_XZ):
                content = lzma.decompress(content)
            found = _DEPENDS.search(content)
            add(found[1].decode().replace("-", "_").split(",") if found else ())
            contents[name] = content

    add(name.replace("-", "_") for name in MODULES)
    loadable = {name: content for name, content in contents.items() if content}  # the rest is built in
    for name, content in loadable.items():
        archive.file(f"modules/{name}.ko", content)
    archive.file("modules/order", "".join(f"/modules/{name}.ko\n" for name in loadable).encode())


def uncompressed_kernel(image: bytes) -> bytes:
    """The ELF file inside a bzImage (x86 boot protocol, payload_offset at 0x248), since a guest without KVM
    would spend seconds on unpacking it; the image itself where it is not compressed by xz.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if not payload.startswith(_XZ):
        return image
    return lzma.LZMADecompressor().decompress(payload)


def _content(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = source.extractfile(member)
    return stream.read() if stream else b""
