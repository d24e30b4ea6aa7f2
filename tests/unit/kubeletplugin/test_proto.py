"""Generated code refuses older libraries at import: the floors must say so before a user meets it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kubeletplugin import proto

ROOT = Path(__file__).parents[3]
GENERATED = Path(proto.__file__).parent


def floor(distribution: str) -> tuple[int, ...]:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (line,) = [line for line in dependencies if re.match(rf"{distribution}\b", line)]
    return version(re.findall(r">=([0-9.]+)", line)[0])


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize(
    ("distribution", "files", "pattern"),
    [
        ("protobuf", "*_pb2.py", r"Protobuf Python Version: ([0-9.]+)"),
        ("grpcio", "*_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([0-9.]+)'"),
    ],
)
def test_the_floor_is_what_generated_code_demands(distribution: str, files: str, pattern: str) -> None:
    demanded = {version(re.findall(pattern, file.read_text())[0]) for file in GENERATED.glob(files)}
    assert demanded == {floor(distribution)}
