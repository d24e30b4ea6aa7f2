"""What is in use, and the lowest that is free."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.addressbook import AddressBook, Given, Span

SUBNET = ip_network("10.0.0.0/27")
SPAN = Span.of(SUBNET, [ip_network("10.0.0.4/30"), ip_network("10.0.0.9"), ip_network("10.9.0.0/16")])
NUMBERS = [n for n in range(1, 31) if n not in (4, 5, 6, 7, 9)]


def address(number: int) -> Given:
    return Given("blue", f"10.0.0.{number}/27")


def lowest(book: AddressBook, span: Span = SPAN, network: str = "blue") -> str | None:
    return book.lowest(network, (span,), span)


def test_the_first_host_is_the_first_given() -> None:
    assert lowest(AddressBook()) == "10.0.0.1/27"


def test_an_address_of_another_network_is_free_here() -> None:
    book = AddressBook()
    book.take(Given("red", "10.0.0.1/27"))
    assert lowest(book) == "10.0.0.1/27"
    assert lowest(book, network="red") == "10.0.0.2/27"


def test_an_address_given_with_another_prefix_length_is_in_use() -> None:
    book = AddressBook()
    book.take(Given("blue", "10.0.0.1/8"))
    assert lowest(book) == "10.0.0.2/27"


def test_an_address_is_free_when_both_claims_that_have_it_let_go() -> None:
    book = AddressBook()
    book.take(address(1))
    book.take(address(1))
    book.release(address(1))
    assert lowest(book) == "10.0.0.2/27"
    book.release(address(1))
    assert lowest(book) == "10.0.0.1/27"


def test_a_changed_subnet_knows_what_was_given_before() -> None:
    book = AddressBook()
    assert lowest(book) == "10.0.0.1/27"
    book.take(address(1))
    wider = Span.of(ip_network("10.0.0.0/24"))
    assert lowest(book, wider) == "10.0.0.2/24"
    book.release(address(1))
    assert lowest(book, wider) == "10.0.0.1/24"


@pytest.mark.parametrize(
    ("subnet", "first", "size"),
    [
        ("10.0.0.0/24", "10.0.0.1/24", 254),
        ("10.0.0.2/31", "10.0.0.2/31", 2),  # RFC 3021
        ("10.0.0.2/32", "10.0.0.2/32", 1),
        ("fd00:0:0:2::/64", "fd00:0:0:2::1/64", 2**64 - 1),  # no broadcast, but the routers' anycast address
        ("fd00::2/127", "fd00::2/127", 2),  # RFC 6164
    ],
)
def test_network_and_broadcast_addresses_are_left_out(subnet: str, first: str, size: int) -> None:
    span = Span.of(ip_network(subnet))
    assert (lowest(AddressBook(), span), span.size) == (first, size)


def test_holes_may_overlap_and_stick_out() -> None:
    holes = ["10.0.0.0/29", "10.0.0.6/31", "10.0.0.8/30", "10.0.0.28/30"]
    span = Span.of(SUBNET, map(ip_network, holes))
    assert span.holes == (((10 << 24), (10 << 24) + 11), ((10 << 24) + 28, (10 << 24) + 31))
    assert (span.size, lowest(AddressBook(), span)) == (16, "10.0.0.12/27")


def test_a_subnet_of_holes_alone_is_full() -> None:
    span = Span.of(SUBNET, [SUBNET])
    book = AddressBook()
    assert book.full("blue", (span,)) == {span}
    assert lowest(book, span) is None


def test_what_was_tried_is_free_again() -> None:
    book = AddressBook()
    with book.trying() as take:
        take(address(1))
        assert lowest(book) == "10.0.0.2/27"
    assert lowest(book) == "10.0.0.1/27"


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "ask"]), st.sampled_from(NUMBERS))))
def test_over_any_history_the_lowest_that_nobody_has_is_given(history: list[tuple[str, int]]) -> None:
    book = AddressBook()
    held: list[int] = []
    for what, number in history:
        if what == "take":
            book.take(address(number))
            held.append(number)
        elif what == "release" and held:
            book.release(address(held.pop(number % len(held))))
        else:
            free = [n for n in NUMBERS if n not in held]
            assert lowest(book) == (f"10.0.0.{free[0]}/27" if free else None)
            assert (SPAN in book.full("blue", (SPAN,))) == (not free)
    assert len(book) == len(set(held))


@given(st.lists(st.integers(0, 2**32 - 1).map(lambda n: f"{ip_network(n)}"), max_size=8))
def test_an_address_is_in_the_book_as_long_as_it_is_held(texts: list[str]) -> None:
    book = AddressBook()
    for text in texts:
        book.take(Given("blue", text))
    assert all(Given("blue", f"{ip_interface(text).ip}/8") in book for text in texts)
    for text in texts:
        book.release(Given("blue", text))
    assert len(book) == 0
