from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Place, Tier
from driver.mock.machine import Machine
from driver.topology import Mates, nearest_tier, pairing, place, rails, tier

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


def test_a_dgx_h100_has_eight_rails_in_the_order_of_its_pairs(dgx: Machine) -> None:
    found = dgx.rails()
    assert [found[gpu.pci_address] for gpu in dgx.gpus] == list(range(8))
    assert [found[nic.pci_address] for nic in dgx.nics if nic.vfs] == list(range(8))
    assert not any(nic.pci_address in found for nic in dgx.nics if not nic.vfs)


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


def test_pairs_of_a_lower_tier_make_rails_only_where_there_is_none_better() -> None:
    gpus = {"0000:01:00.0": Place("s", "p", "r", 0), "0000:02:00.0": Place(None, "q", "u", 0)}
    nics = {"0000:03:00.0": Place("s", "p", "r", 0), "0000:04:00.0": Place(None, "v", "w", 0)}
    assert rails(gpus, nics) == {"0000:01:00.0": 0, "0000:03:00.0": 0}
    del gpus["0000:01:00.0"], nics["0000:03:00.0"]
    assert rails(gpus, nics) == {"0000:02:00.0": 0, "0000:04:00.0": 0}


def test_given_rails_stay_are_their_mates_too_and_are_not_given_again() -> None:
    gpus = {f"0000:0{n}:00.0": Place(f"s{n}", None, None, None) for n in range(3)}
    nics = {f"0000:1{n}:00.0": Place(f"s{n}", None, None, None) for n in range(3)}
    found = rails(gpus, nics, {"0000:11:00.0": 0})
    assert [found[gpu] for gpu in gpus] == [found[nic] for nic in nics] == [1, 0, 2]


def test_equal_rails_pair_first_within_a_tier() -> None:
    shared = Place("s", "p", "r", 0)
    gpus, nics = (
        {"0000:01:00.0": shared, "0000:02:00.0": shared},
        {"0000:03:00.0": shared, "0000:04:00.0": shared},
    )
    found = pairing(gpus, nics, {"0000:01:00.0": 1, "0000:02:00.0": 0, "0000:03:00.0": 0, "0000:04:00.0": 1})
    assert [(m.gpu, m.nic) for m in found] == [
        ("0000:01:00.0", "0000:04:00.0"),
        ("0000:02:00.0", "0000:03:00.0"),
    ]


def test_a_nic_to_spare_serves_a_gpu_that_has_none_before_it_doubles_up() -> None:
    near, far = Place("s", "p", "r", 0), Place(None, "q", "u", 1)
    found = pairing({"0000:01:00.0": near, "0000:02:00.0": far}, {"0000:03:00.0": near, "0000:04:00.0": near})
    assert [(m.gpu, m.nic, m.tier) for m in found] == [
        ("0000:01:00.0", "0000:03:00.0", Tier.PIX),
        ("0000:02:00.0", "0000:04:00.0", Tier.SYS),
    ]


def test_storage_nics_pair_with_none() -> None:
    near, storage = Place("s", "p", "r", 0), Place(None, "q", "u", 0)
    found = pairing({"0000:01:00.0": near}, {"0000:02:00.0": near, "0000:03:00.0": storage})
    assert [m.nic for m in found] == ["0000:02:00.0"]


def test_two_gpus_of_one_nic_share_it() -> None:
    shared = Place(None, None, "r", 0)
    found = pairing({"0000:01:00.0": shared, "0000:02:00.0": shared}, {"0000:03:00.0": shared})
    assert [(m.gpu, m.tier) for m in found] == [("0000:01:00.0", Tier.PHB), ("0000:02:00.0", Tier.PHB)]


def test_what_nothing_distinguishes_is_dealt_out_evenly_in_order() -> None:
    nowhere = Place()
    found = pairing(
        {f"0000:0{n}:00.0": nowhere for n in range(2)}, {f"0000:1{n}:00.0": nowhere for n in range(6)}
    )
    assert [m.gpu for m in found] == ["0000:00:00.0"] * 3 + ["0000:01:00.0"] * 3


GPUS = st.dictionaries(st.sampled_from([f"0000:{b:02x}:00.0" for b in range(9)]), PLACES, max_size=8)
NICS = st.dictionaries(st.sampled_from([f"0000:{b:02x}:00.0" for b in range(16, 25)]), PLACES, max_size=8)


@given(GPUS, NICS)
def test_rails_are_counted_from_zero_without_gaps_and_hold_both_kinds(
    gpus: dict[str, Place], nics: dict[str, Place]
) -> None:
    found = rails(gpus, nics)
    assert set(found.values()) == set(range(len(set(found.values()))))
    for rail in found.values():
        assert any(address in gpus for address, number in found.items() if number == rail)
        assert any(address in nics for address, number in found.items() if number == rail)


@given(GPUS, NICS)
def test_pairing_is_a_maximum_matching_with_the_tiers_that_the_places_have(
    gpus: dict[str, Place], nics: dict[str, Place]
) -> None:
    found = pairing(gpus, nics)
    assert all(m.tier is tier(gpus[m.gpu], nics[m.nic]) for m in found)
    assert len(_matched(found)) == min(len(gpus), len(nics))


def _matched(mates: tuple[Mates, ...]) -> dict[str, str]:
    """A largest one-to-one choice among pairs, by augmenting paths."""
    gpu_of: dict[str, str] = {}

    def place_gpu(gpu: str, tried: set[str]) -> bool:
        for nic in (m.nic for m in mates if m.gpu == gpu and m.nic not in tried):
            tried.add(nic)
            if nic not in gpu_of or place_gpu(gpu_of[nic], tried):
                gpu_of[nic] = gpu
                return True
        return False

    for gpu in {m.gpu for m in mates}:
        place_gpu(gpu, set())
    return gpu_of


@given(st.lists(PLACES, min_size=1, max_size=3), st.lists(PLACES, min_size=1, max_size=3))
def test_the_nearest_tier_of_two_sides_is_that_of_their_nearest_pair(
    some: list[Place], others: list[Place]
) -> None:
    assert nearest_tier(some, others) is min(tier(one, other) for one in some for other in others)
