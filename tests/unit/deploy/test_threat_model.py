"""The tests that the threat model and the table of faults name are there."""

from __future__ import annotations

import re

import pytest

from deploy.image.content import ROOT

NAMED = re.compile(r"`((?:cluster|oracle|unit)/[a-z_/]+\.py)(?:::(test_\w+))?`")
TABLE = re.compile(r"^\| (?:guard|fault) \| test \|\n\|---\|---\|\n((?:\| .*\n)+)", re.M)


@pytest.mark.parametrize(("name", "tables"), [("threat-model.md", 1), ("faults-and-tests.md", 2)])
def test_every_row_has_its_test(name: str, tables: int) -> None:
    found = TABLE.findall((ROOT / "docs" / name).read_text())
    assert len(found) == tables
    for row in "".join(found).splitlines():
        tests = row.split(" | ")[-1]
        named = NAMED.findall(tests)
        assert named, row
        assert len(named) == len(re.findall(r"\.py\b", tests)), row
        for path, test in named:
            source = (ROOT / "tests" / path).read_text()
            assert re.search(rf"^def {test}\(" if test else "^def test_", source, re.M), f"{path}::{test}"


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
