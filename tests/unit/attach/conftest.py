from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.unit.attach.machine import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    machine = Machine()
    yield machine
    machine.end()
