"""The base of the image where there is no registry: Debian's Python, no shell, no package manager.

mmdebstrap's `extract` variant unpacks packages without running their scripts: Python needs none of them,
and a base without a shell leaves an intruder little to work with. (To look inside a pod, `kubectl debug`
brings its own tools.)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")

# Python minor version → the Debian release that has it.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}

# What Python does without.
_DROPPED = (
    "bin/tar",
    "dev",
    "etc/apt",
    "etc/cron.daily",
    "etc/dpkg",
    "etc/fstab",
    "etc/hostname",
    "etc/logrotate.d",
    "etc/resolv.conf",
    "etc/rmt",
    "lib/systemd",
    "sbin/start-stop-daemon",
    "usr/bin/dpkg*",
    "usr/bin/py3*",
    "usr/bin/update-alternatives",
    "usr/lib/*/gconv",
    "usr/lib/*/perl*",
    "usr/lib/python3.*/pydoc_data",
    "usr/libexec/dpkg",
    "usr/sbin/*",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log",
)
_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "usr/local/bin", "var/lib", "var/tmp")


class BaseError(Exception):
    """The base cannot be made: what is missing, or what mmdebstrap said."""


def suite(python: tuple[int, int] = sys.version_info[:2]) -> str:
    """The Debian release whose Python runs what this interpreter's environment holds.

    Raises:
        BaseError: none has that version.
    """
    try:
        return SUITES[python]
    except KeyError:
        version = f"{python[0]}.{python[1]}"
        have = ", ".join(f"{release}: {major}.{minor}" for (major, minor), release in SUITES.items())
        raise BaseError(
            f"no Debian release comes with Python {version} ({have}): make the virtual environment with one "
            f"of these, or give --base docker.io/library/python:{version}-slim"
        ) from None


def recipe() -> str:
    """All that decides what the base holds, but for Debian's own updates."""
    return "\n".join((suite(), *PACKAGES, *_DROPPED, *_FOLDERS))


def make_root(target: Path, mirror: str = "") -> None:
    """Unpack the base into `target`, which must not exist, trim it and compile its Python.

    Args:
        target: the root to be.
        mirror: Debian mirror; empty: Debian's own.

    Raises:
        BaseError: mmdebstrap is missing, or what it said.
    """
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    command += [suite(), str(target), *([mirror] if mirror else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BaseError("mmdebstrap is missing: apt-get install mmdebstrap") from None
    if done.returncode:
        raise BaseError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    trim(target)
    compile_tree(target / "usr/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}", target, "/")


def trim(root: Path) -> None:
    """Remove what the image does without; make the folders and the interpreter's name that it counts on."""
    dropped = [path for pattern in _DROPPED for path in root.glob(pattern)]
    dropped += [path for path in root.glob("usr/share/*") if path.name != "doc"]
    dropped += [path for path in root.glob("usr/share/doc/*/*") if path.name != "copyright"]
    for path in dropped:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # some packages' folders are links to others'
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp"):
        (root / folder).chmod(0o1777)
    (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
    (root / "var/run").symlink_to("/run")


def compile_tree(tree: Path, strip: Path, prepend: str) -> None:
    """Compile `tree` to bytecode that never looks at file times: a read-only root costs no start-up time.

    Tracebacks show paths below `prepend` in place of `strip`.
    """
    mode = ["--invalidation-mode", "unchecked-hash"]
    paths = ["-s", str(strip), "-p", prepend]
    # What is no valid Python of this version (a template, a test of syntax errors) is left as it is.
    subprocess.run([sys.executable, "-m", "compileall", "-qq", *mode, *paths, "-j0", str(tree)], check=False)
