"""The tests that the threat model names are there."""

from __future__ import annotations

import re

from deploy.image.content import ROOT

NAMED = re.compile(r"`((?:cluster|unit)/[a-z_/]+\.py)(?:::(test_\w+))?`")


def test_every_guard_has_its_test() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    rows = [row for row in text.partition("| guard | test |")[2].splitlines() if row.startswith("| ")]
    assert rows
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for path, name in named:
            source = (ROOT / "tests" / path).read_text()
            assert f"def {name}(" in source or not name, f"{path}::{name}"


def test_every_policy_is_named() -> None:
    manifests = [ROOT / "deploy" / "base" / name for name in ("admission.yaml", "networks-admission.yaml")]
    text = (ROOT / "docs" / "threat-model.md").read_text()
    policies = {
        name
        for file in manifests
        for name in re.findall(r"kind: ValidatingAdmissionPolicy\nmetadata:\n  name: (\S+)", file.read_text())
    }
    assert policies
    assert [name for name in sorted(policies) if f"`{name}`" not in text] == []
