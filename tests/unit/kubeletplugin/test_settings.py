from __future__ import annotations

from pathlib import Path

import pytest

from driver.errors import ConfigError
from driver.kube.objects import DeviceAttribute
from driver.slices import SliceOptions
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
        (["--shared=gpu,disk"], "--shared: 'disk' is none of gpu, mig, nic, vf"),
        (["--overlay=a.xml", "--overlay-dir=b"], "--overlay-dir: is given, and --overlay too"),
        (["--publish-filter=/nowhere"], "--publish-filter /nowhere: cannot be read"),
    ],
)
def test_an_impossible_value_names_its_option(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(arguments, {})


def test_a_variable_may_only_say_what_the_option_may() -> None:
    with pytest.raises(ConfigError, match="--allocation: 'nobody' is none of controller, scheduler"):
        parse([], {"TANDEM_ALLOCATION": "nobody"})


def test_claims_are_listed_only_where_it_is_said() -> None:
    assert not parse([], {}).rebuild_ledger
    assert parse(["--rebuild-ledger=on"], {}).rebuild_ledger
    with pytest.raises(ConfigError, match="--rebuild-ledger: 'yes' is none of off, on"):
        parse([], {"TANDEM_REBUILD_LEDGER": "yes"})


def test_what_is_published_follows_the_settings(tmp_path: Path) -> None:
    assert parse([], {}).slice_options() == SliceOptions()
    rules = tmp_path / "rules.yaml"
    rules.write_text("withhold: [{type: nic}]")
    chosen = ["--allocation=scheduler", "--mig=off", "--shared=gpu, vf", f"--publish-filter={rules}"]
    options = parse(chosen, {}).slice_options()
    assert not options.controller_taint
    assert (options.mig, options.shared) == ("off", frozenset({"gpu", "vf"}))
    assert options.filter.withholds("x", {"type": DeviceAttribute(string="nic")})


def test_a_wrong_filter_stops_the_start(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("withhold: [{colour: red}]")
    with pytest.raises(ConfigError, match=r"rules.yaml: withhold\[0\]: there is no attribute 'colour'"):
        parse([f"--publish-filter={rules}"], {})
