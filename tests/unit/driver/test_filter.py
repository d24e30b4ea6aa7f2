from __future__ import annotations

from pathlib import Path

import pytest

from driver.attribute_table import ATTRIBUTES, CAPACITIES, render
from driver.devices import Inventory, Netdev
from driver.errors import ConfigError
from driver.filter import parse
from driver.slices import SliceOptions, devices, withheld
from tests.unit.driver.machines import a_gpu, a_nic
from tests.unit.driver.test_partitions import devices_of, mig_gpu, pool

MACHINE = Inventory("m", (a_gpu(1), a_gpu(2, rail=4)), (a_nic(0x18, vfs=2), a_nic(0x19)))


def names(text: str) -> list[str]:
    options = SliceOptions(filter=parse(text))
    return [device.name for device in devices(MACHINE, driver_name="tandem-dra.io", options=options)]


def test_no_filter_publishes_every_device() -> None:
    assert len(names("")) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("publish: [{type: gpu}]", ["gpu-0000-01-00-0", "gpu-0000-02-00-0"]),
        ("publish: [{type: gpu, rail: 4}]", ["gpu-0000-02-00-0"]),
        ("publish: [{tandem-dra.io/type: nic}]", ["nic-0000-19-00-0"]),
        ("publish: [{type: vf, rdma: false}]", []),
        ("publish: [{rdma: true, vfIndex: [0, 7]}]", ["vf-0000-18-00-1"]),
        ("publish: [{pciBusID: '0000:0?:00.0'}]", ["gpu-0000-01-00-0", "gpu-0000-02-00-0"]),
        (
            "{publish: [{type: gpu}, {type: vf}], withhold: [{name: '*-2'}, {rail: 4}]}",
            ["gpu-0000-01-00-0", "vf-0000-18-00-1"],
        ),
        ("withhold: [{type: [gpu, vf]}]", ["nic-0000-19-00-0"]),
        ("publish: [{profile: '*'}]", []),
    ],
)
def test_devices_are_chosen_by_name_and_attributes(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("publish: [{typ: gpu}]", "filter: publish[0]", "there is no attribute 'typ'"),
        ("publish: []", "filter: publish", "leave it out"),
        ("withhold: [{}]", "filter: withhold[0]", "name an attribute"),
        ("withhold: [{type: []}]", "filter: withhold[0].type", "matches nothing"),
        ("only: [{type: gpu}]", "filter", "unknown field `only`"),
        ("publish: [", "filter", "is no YAML"),
        ("- a", "filter", "Expected `object`"),
    ],
)
def test_a_filter_that_cannot_be_understood_is_an_error_that_says_where(
    text: str, path: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        parse(text)
    assert caught.value.path == path
    assert message in str(caught.value)


def test_what_is_withheld_is_said_with_its_reason() -> None:
    own = a_nic(0x1A, netdev=Netdev("eth0", 2, uplink=True))
    found = withheld(
        Inventory("m", MACHINE.gpus, (own,)), SliceOptions(filter=parse("withhold: [{type: gpu, rail: 4}]"))
    )
    assert found == {
        "gpu-0000-02-00-0": "the filter withholds {type: gpu, rail: 4}",
        "nic-0000-1a-00-0": "the node itself uses its interface (address, default route, bond or bridge)",
    }


def test_a_filter_works_the_same_under_another_driver_name() -> None:
    options = SliceOptions(filter=parse("publish: [{type: gpu}]"))
    assert len(devices(MACHINE, driver_name="other.example.com", options=options)) == 2


def test_counter_sets_of_filtered_devices_are_not_published() -> None:
    slices = pool(
        Inventory("m", (mig_gpu(1),)), SliceOptions(mig="dynamic", filter=parse("withhold: [{name: '*'}]"))
    )
    assert [(s.spec.devices, s.spec.shared_counters) for s in slices] == [([], [])]


def test_the_page_of_attributes_is_the_table() -> None:
    page = Path(__file__).parents[3] / "docs/attributes.md"
    assert page.read_text(encoding="utf-8") == render(), (
        "run: python -m driver.attribute_table > docs/attributes.md"
    )


def test_every_attribute_and_capacity_that_is_published_is_in_the_table() -> None:
    known = {entry.name: entry for entry in (*ATTRIBUTES, *CAPACITIES)}
    options = SliceOptions(mig="dynamic", vfio=True, pf_and_vfs=True)
    inventory = Inventory("m", (mig_gpu(1), a_gpu(2, rail=1)), (a_nic(0x18, vfs=1), a_nic(0x19)))
    seen = set()
    for device in devices_of(pool(inventory, options)).values():
        kind = device.attributes["type"].string or ""
        for name in (*device.attributes, *device.capacity):
            seen.add(name)
            assert known[name].devices == "all" or kind in known[name].devices.split()
    assert known.keys() - seen <= {"addressingMode", "moduleID"}
