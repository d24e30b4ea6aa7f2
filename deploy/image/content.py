"""What goes into the image on top of its base, taken from the environment that the tests ran in.

The dependencies are the very files of this virtual environment, so the image holds what the lock file says,
and nothing is downloaded to build it. They are the closure of pyproject.toml's `dependencies` alone: no
development tools.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cni import build as shim
from deploy.image.debian import compile_tree

ROOT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = "/opt/tandem"

# Of the official client we use configuration and transport. The rest is large (half of it is an asynchronous
# twin) and is imported only when asked for by name.
_UNUSED: Final = (
    "kubernetes/aio",
    "kubernetes/client/api",
    "kubernetes/docs",
    "kubernetes/e2e_test",
    "kubernetes/test",
)
_SKIPPED_SUFFIXES: Final = (".pyc", ".pyi", ".pxd", ".pyx", ".c", ".h")

_COMMAND: Final = f"""\
#!/usr/local/bin/python3 -I
import sys

sys.path.insert(0, "{PREFIX}/lib")
from cli.main import main

sys.exit(main())
"""


def requirements() -> list[str]:
    """The project's own, as pyproject.toml has them."""
    return [str(item) for item in _pyproject()["project"]["dependencies"]]


def closure(wanted: Iterable[str], find: Callable[[str], Distribution] = distribution) -> list[Distribution]:
    """The distributions that the requirements `wanted` need, they themselves included, by name.

    Raises:
        importlib.metadata.PackageNotFoundError: the environment lacks one.
    """
    found: dict[str, Distribution] = {}
    open_ends = [(Requirement(text), "") for text in wanted]
    seen: set[tuple[str, str]] = set()
    while open_ends:
        requirement, extra = open_ends.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.setdefault(name, find(requirement.name))
        for feature in {"", *requirement.extras}:
            if (name, feature) not in seen:
                seen.add((name, feature))
                open_ends += [(Requirement(text), feature) for text in found[name].requires or []]
    return [found[name] for name in sorted(found)]


def belongs(path: PurePath) -> bool:
    """Whether a distribution's file, relative to site-packages, is of use in the image."""
    if path.parts[0] == ".." or path.is_absolute() or path.suffix in _SKIPPED_SUFFIXES:
        return False
    return not any(path.is_relative_to(unused) for unused in _UNUSED)


def dependencies_digest(distributions: Iterable[Distribution]) -> str:
    """Changes with any version, with Python's, and with what is left out."""
    versions = [f"{item.metadata['Name']}=={item.version}" for item in distributions]
    return digest(sys.version, *versions, *_UNUSED, *_SKIPPED_SUFFIXES)


def write_dependencies(distributions: Iterable[Distribution], target: Path) -> None:
    """Put the distributions' files, compiled, into `target`/lib."""
    library = target / "lib"
    for item in distributions:
        for file in item.files or []:
            if belongs(file):
                _copy(Path(str(file.locate())), library / file)
    compile_tree(library, library, f"{PREFIX}/lib")


def code_files(root: Path = ROOT) -> list[Path]:
    """Our own packages' files, those of the wheel."""
    packages = _pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = (path for package in packages for path in (root / package).rglob("*") if path.is_file())
    return sorted(path for path in files if "__pycache__" not in path.parts)


def code_digest(files: Sequence[Path], root: Path = ROOT) -> str:
    """Changes with the name or content of any file."""
    names = [str(path.relative_to(root)) for path in files]
    return digest(_COMMAND, *names, *(path.read_bytes() for path in files))


def write_code(files: Iterable[Path], target: Path, root: Path = ROOT) -> None:
    """Put our packages, compiled, into `target`/lib, `tandem` and the CNI shim into `target`/bin.

    Raises:
        cni.build.BuildError: the shim cannot be compiled.
    """
    library, programs = target / "lib", target / "bin"
    for path in files:
        _copy(path, library / path.relative_to(root))
    compile_tree(library, library, f"{PREFIX}/lib")
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "tandem").write_text(_COMMAND)
    (programs / "tandem").chmod(0o755)
    shim.build(programs / "tandem-cni")


def write_context(target: Path) -> None:
    """Put all that lies on a base into one folder, for a single build by the Containerfile.

    Raises:
        cni.build.BuildError: the shim cannot be compiled.
    """
    write_dependencies(closure(requirements()), target)
    write_code(code_files(), target)


def digest(*parts: str | bytes) -> str:
    """Sixteen hex digits of all `parts`, their borders included."""
    made = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()[:16]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
