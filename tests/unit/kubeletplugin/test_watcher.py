from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Inventory, Netdev
from kubeletplugin.hardware_events import LinkEvent, is_pci, link_events
from kubeletplugin.watcher import Debounce, is_news, known_of
from tests.unit.kubeletplugin.world import inventory

PF, VF = "0000:1a:00.0", "0000:1a:00.1"


def with_interfaces(*, carrier: bool = True) -> Inventory:
    """PFs with interfaces too; the world's VFs have some."""
    nics = tuple(
        replace(nic, netdev=Netdev(f"pf{index}", 100 + index, carrier=carrier))
        for index, nic in enumerate(inventory().nics)
    )
    return replace(inventory(), nics=nics)


def news(event: LinkEvent, *, away: frozenset[str] = frozenset(), carrier: bool = True) -> bool:
    return is_news(event, known_of(with_interfaces(carrier=carrier)), lambda: away)


def test_a_lost_and_a_found_link_are_news_and_the_known_state_is_not() -> None:
    assert news(LinkEvent(PF, True, carrier=False))
    assert not news(LinkEvent(PF, True, carrier=True))
    assert news(LinkEvent(PF, True, carrier=True), carrier=False)


def test_a_function_that_nobody_knew_is_news_and_its_going_is_not() -> None:
    assert news(LinkEvent("0000:1a:00.7", True))
    assert not news(LinkEvent("0000:1a:00.7", False))


def test_our_own_moves_into_pods_and_home_are_no_news() -> None:
    assert not news(LinkEvent(VF, False), away=frozenset({VF}))
    for carrier in (False, True):  # on the way home it is set down and up
        assert not news(LinkEvent(VF, True, carrier=carrier))


def test_a_vf_that_others_take_away_is_news_once() -> None:
    assert news(LinkEvent(VF, False))
    nics = with_interfaces().nics
    gone = replace(nics[0], vfs=(replace(nics[0].vfs[0], netdev=None), *nics[0].vfs[1:]))
    known = known_of(replace(with_interfaces(), nics=(gone, *nics[1:])))
    assert not is_news(LinkEvent(VF, False), known, frozenset)


def test_what_a_bond_or_bridge_takes_is_news() -> None:
    assert news(LinkEvent(VF, True, enslaved=True))
    assert news(LinkEvent(PF, True, carrier=True, enslaved=True))


def test_a_garbled_datagram_says_nothing() -> None:
    assert list(link_events(b"")) == []
    assert list(link_events(b"\x01\0\0\0" + bytes(40))) == []


@given(st.binary(max_size=200))
def test_no_datagram_is_too_strange(data: bytes) -> None:
    assert all(event.pci_address for event in link_events(data))
    is_pci(data)


def test_events_in_a_row_are_due_when_it_is_quiet() -> None:
    debounce = Debounce(0.1, 0.5)
    assert debounce.left(0.0) is None
    for n in range(64):
        debounce.note(n / 1000)
    assert debounce.left(0.1) is not None
    assert debounce.left(0.1) > 0  # type: ignore[operator]
    assert debounce.left(0.163) == 0
    debounce.clear()
    assert debounce.left(1.0) is None


@given(st.lists(st.floats(0.001, 0.3), min_size=1, max_size=50))
def test_however_events_come_none_waits_longer_than_the_limit(gaps: list[float]) -> None:
    debounce, now, oldest = Debounce(0.1, 0.5), 0.0, None
    for gap in gaps:
        debounce.note(now)
        oldest = now if oldest is None else oldest
        left = debounce.left(now)
        assert left is not None
        assert now + left <= oldest + 0.5 + 1e-9
        if left < gap:
            debounce.clear()
            oldest = None
        now += gap
