from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Place, Tier
from driver.mock.machine import Machine
from driver.topology import pairs, place, rails, tier
from tests.unit.driver.machines import a_gpu, a_nic

ROOT_PORT, UPSTREAM, DOWNSTREAM = "0000:15:01.0", "0000:16:00.0", "0000:17:02.0"

BRIDGES = st.lists(
    st.sampled_from([f"0000:{bus:02x}:{slot:02x}.0" for bus in range(4) for slot in range(3)]), max_size=6
)
PLACES = st.builds(
    place,
    st.sampled_from([None, "pci0000:00", "pci0000:80"]),
    BRIDGES,
    st.sampled_from([None, 0, 1]),
)


def test_the_leaf_switch_is_named_by_its_upstream_port() -> None:
    found = place("pci0000:15", [ROOT_PORT, UPSTREAM, DOWNSTREAM], 0)
    assert found == Place(UPSTREAM, ROOT_PORT, "pci0000:15", 0)


def test_of_cascaded_switches_the_lowest_is_the_leaf() -> None:
    found = place(
        "pci0000:15", [ROOT_PORT, "0000:16:00.0", "0000:17:00.0", "0000:18:00.0", "0000:19:01.0"], 0
    )
    assert found.pcie_switch == "0000:18:00.0"


def test_a_single_bridge_below_the_root_port_is_the_leaf() -> None:
    assert place("pci0000:00", [ROOT_PORT, "0000:02:00.0"], None).pcie_switch == "0000:02:00.0"


@pytest.mark.parametrize("bridges", [[], [ROOT_PORT]])
def test_a_device_without_a_switch_knows_none(bridges: list[str]) -> None:
    assert place("pci0000:15", bridges, 0).pcie_switch is None


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Place("s", "p", "r", 0), Tier.PIX),
        (Place("t", "p", "r", 0), Tier.PXB),
        (Place("t", "q", "r", 0), Tier.PHB),
        (Place("t", "q", "u", 0), Tier.NODE),
        (Place("t", "q", "u", 1), Tier.SYS),
        (Place(), Tier.SYS),
    ],
)
def test_tier_is_the_nearest_level_that_is_shared(other: Place, expected: Tier) -> None:
    assert tier(Place("s", "p", "r", 0), other) is expected


def test_two_unknown_places_are_not_near() -> None:
    assert tier(Place(), Place()) is Tier.SYS


@given(PLACES, PLACES)
def test_tier_is_symmetric(a: Place, b: Place) -> None:
    assert tier(a, b) is tier(b, a)


@given(PLACES, PLACES, PLACES)
def test_two_devices_as_near_to_a_third_are_as_near_to_each_other(a: Place, b: Place, c: Place) -> None:
    if tier(a, b) == tier(b, c) != Tier.SYS:
        assert tier(a, c) <= tier(a, b)


def test_the_nearest_pairs_come_first() -> None:
    near, far = Place("s", "p", "r", 0), Place("x", "y", "z", 1)
    found = pairs([a_gpu(2, place=far), a_gpu(1, place=near)], [a_nic(3, place=near)])
    assert [(p.gpu.pci_address, p.tier) for p in found] == [
        ("0000:01:00.0", Tier.PIX),
        ("0000:02:00.0", Tier.SYS),
    ]


def test_a_dgx_h100_has_eight_rails_in_the_order_of_its_pairs(dgx: Machine) -> None:
    found = dgx.rails()
    assert [found[gpu.pci_address] for gpu in dgx.gpus] == list(range(8))
    assert [found[nic.pci_address] for nic in dgx.nics] == list(range(8))


def test_two_pairs_on_one_switch_are_two_rails() -> None:
    shared = Place("s", "p", "r", 0)
    found = rails(
        {"0000:07:00.0": shared, "0000:0f:00.0": shared}, {"0000:0c:00.0": shared, "0000:12:00.0": shared}
    )
    assert found == {"0000:07:00.0": 0, "0000:0c:00.0": 0, "0000:0f:00.0": 1, "0000:12:00.0": 1}


def test_four_nics_of_one_gpu_share_its_rail() -> None:
    one, two = Place("s", "p", "r", 0), Place("t", "q", "u", 1)
    nics = {f"0000:1{n}:00.0": one for n in range(4)} | {"0000:20:00.0": two}
    found = rails({"0000:01:00.0": one, "0000:02:00.0": two}, nics)
    assert {found[f"0000:1{n}:00.0"] for n in range(4)} == {0}
    assert found["0000:20:00.0"] == found["0000:02:00.0"] == 1


def test_a_gpu_off_the_switches_has_no_rail_and_shifts_none() -> None:
    lone, shared = Place(None, "p", "r", 0), Place("s", "q", "r", 0)
    found = rails({"0000:01:00.0": lone, "0000:02:00.0": shared}, {"0000:03:00.0": shared})
    assert found == {"0000:02:00.0": 0, "0000:03:00.0": 0}


@given(
    st.dictionaries(st.sampled_from([f"0000:{b:02x}:00.0" for b in range(9)]), PLACES, max_size=8),
    st.dictionaries(st.sampled_from([f"0000:{b:02x}:00.0" for b in range(16, 25)]), PLACES, max_size=8),
)
def test_rails_are_counted_from_zero_without_gaps_and_stay_on_a_switch(
    gpus: dict[str, Place], nics: dict[str, Place]
) -> None:
    found = rails(gpus, nics)
    assert set(found.values()) == set(range(len(set(found.values()))))
    for rail in set(found.values()):
        on_it = [(gpus | nics)[address].pcie_switch for address, number in found.items() if number == rail]
        assert len(set(on_it)) == 1
        assert any(address in gpus and found.get(address) == rail for address in found)
        assert any(address in nics and found.get(address) == rail for address in found)
