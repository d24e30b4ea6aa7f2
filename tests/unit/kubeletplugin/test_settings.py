from __future__ import annotations

from pathlib import Path

import pytest

from driver.errors import ConfigError
from kubeletplugin.settings import parse


def test_an_option_comes_before_its_variable_and_that_before_the_default() -> None:
    environment = {"NODE_NAME": "from-env", "TANDEM_ALLOCATION": "scheduler", "POD_UID": "u"}
    settings = parse(["--node-name=given"], environment)
    assert (settings.node_name, settings.allocation, settings.pod_uid) == ("given", "scheduler", "u")
    assert settings.state_dir == Path("/var/lib/tandem")
    assert settings.kubeconfig is None
    assert settings.cni_socket == Path("/run/tandem/cni.sock")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--driver-name=No Name"], "--driver-name: 'No Name'"),
        (["--mock-vfs-per-pf=many"], "'many' is no number"),
    ],
)
def test_an_impossible_value_names_its_option(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(arguments, {})


def test_a_variable_may_only_say_what_the_option_may() -> None:
    with pytest.raises(ConfigError, match="--allocation: 'nobody' is none of controller, scheduler"):
        parse([], {"TANDEM_ALLOCATION": "nobody"})
