"""One run of the virtual machine: boots, runs one command, answers with its status and output, is gone.

Everything passes through a folder that host and guest share: the command goes in; output, status and
whatever the command makes come out. The guest ends itself when the command has ended or its time is up, and
the kernel ends QEMU when this process dies.
"""

from __future__ import annotations

import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm import topology
from tests.vm.errors import GuestError
from tests.vm.image import Image
from tests.vm.packages import QEMU

CHECKOUT = Path(__file__).parents[2]
BOOT_SECONDS = 60
"""What the guest may take before and after the command."""

_KERNEL = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off random.trust_cpu=on tsc=reliable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: exit status, and stdout with stderr as text."""

    status: int
    output: str


class Machine:
    """Runs a shell command in the guest from construction on; a context manager that leaves no process.

    `shared` is the folder that the guest sees as /out, and should be empty.
    """

    def __init__(self, image: Image, command: str, shared: Path, *, limit_seconds: int = 300) -> None:
        self._shared = shared
        self._deadline = time.monotonic() + limit_seconds + BOOT_SECONDS
        (shared / "command").write_text(command)
        arguments = qemu_arguments(image, shared, limit_seconds, kvm=kvm_usable())
        with (shared / "qemu").open("wb") as errors:
            # setpriv: whatever ends this process ends the machine.
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()
        self._qemu.wait()

    @property
    def running(self) -> bool:
        """Is it? One that is beyond its time is ended here."""
        if self._qemu.poll() is not None:
            return False
        if time.monotonic() > self._deadline:
            self._qemu.kill()
            self._qemu.wait()
            return False
        return True

    def wait(self) -> Outcome:
        """What the command left, when it has ended.

        Raises:
            GuestError: the machine ended without a status; the message has the end of its console.
        """
        while self.running:
            time.sleep(0.1)
        try:
            status = int((self._shared / "status").read_text())
        except (FileNotFoundError, ValueError):
            raise GuestError(f"the machine ended without an answer\n{self.traces()}") from None
        return Outcome(status, _text(self._shared / "output"))

    def traces(self) -> str:
        """The end of what QEMU, the guest's console and the command said."""
        parts = [(name, _text(self._shared / name).strip()) for name in ("qemu", "console", "output")]
        return "\n".join(f"--- {name} ---\n{text[-3000:]}" for name, text in parts if text)


def kvm_usable(root: Path = Path("/")) -> bool:
    """Can KVM run a stock kernel here? Not where it is the paravirtual kind that hosts in the cloud have."""
    device = root / "dev/kvm"
    try:
        with device.open("r+b", buffering=0):
            pass
        flags = set((root / "proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"vmx", "svm"}) and not (root / "sys/module/kvm_pvm").exists()


def qemu_arguments(image: Image, shared: Path, limit_seconds: int, *, kvm: bool) -> list[str]:
    """The command line of QEMU."""
    processor = (
        ["-accel", "kvm", "-cpu", "host"]
        if kvm
        else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off,phys-bits=36"]
    )
    found = [
        QEMU,
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-M",
        "q35,kernel-irqchip=split",
        *processor,
    ]
    found += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
    found += ["-append", f"{_KERNEL} limit={limit_seconds}", "-serial", f"file:{shared / 'console'}"]
    packages = Path(sysconfig.get_path("platlib"))
    for tag, path, mode in (
        ("checkout", CHECKOUT, ",readonly=on"),
        ("packages", packages, ",readonly=on"),
        ("out", shared, ""),
    ):
        escaped = str(path).replace(",", ",,")
        found += ["-fsdev", f"local,id={tag},path={escaped},security_model=none{mode}"]
        found += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    return found + topology.arguments()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
