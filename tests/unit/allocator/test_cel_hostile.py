"""Selectors and quantities that a tenant could write to keep the controller busy: what is bounded is counted
work (length of text, steps), never seconds.
"""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.allocator import cel_regex, quantity, semver
from controller.allocator.cel import TURN_STEPS, CelCache, SelectorsPendingError
from controller.allocator.cel_program import MAX_COST, Content, Program, Verdict
from controller.allocator.cel_syntax import rewritten, with_free_numbers
from controller.allocator.kept import Kept
from controller.allocator.model import NodeDevices
from controller.allocator.reads import reads
from driver.errors import RetryableError
from tests.unit.allocator import world
from tests.unit.allocator.test_cel import CEL, DEVICE, ONE, OURS, TRUE

LONGER = 8
"""How many times longer a text may become."""

WRAPPERS = [
    "device.attributes[{}]",
    "device.attributes[?{}]",
    "device . capacity [ {} ]",
    "string({})",
    "x.validate({})",
    "format.named({})",
    "optional.unwrap({})",
    "x.transformMap(k, v, {})",
    "x.transformMap({}, v, 1)",
    "x.transformMapEntry(k, v, {})",
    "({}).unwrapOpt()",
    'ip("{}")',
    "[{}",
    "{})",
    "'{}",
]


@given(st.lists(st.sampled_from(WRAPPERS), max_size=60), st.sampled_from(['"a"', "x", "ip(a)", ""]))
def test_a_rewritten_selector_is_as_long_as_what_is_in_it(wrappers: list[str], inner: str) -> None:
    text = inner
    for wrapper in wrappers:
        text = wrapper.replace("{}", text)
    assert len(rewritten(text)) <= LONGER * len(text) + LONGER


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_level_adds_the_same(wrapper: str) -> None:
    lengths = []
    text = "x"
    for _ in range(60):
        text = wrapper.replace("{}", text)
        lengths.append(len(rewritten(text)))
    assert {b - a for a, b in itertools.pairwise(lengths)} <= set(range(LONGER * len(wrapper)))


RUN = 300_000
"""So long that who reads it twice for each character does not come to an end."""
RUNS = [
    "device.attributes[" + " " * RUN + '"a"',
    "device.attributes[?" + " " * RUN + "?",
    "device" + " " * RUN,
]
RUNS += [
    "." + " " * RUN,
    "<" * RUN,
    "1" * RUN + "x",
    "1 < " + " " * RUN,
    "a" * RUN,
    "'" + "\\" * RUN,
    "-" * RUN,
]


@pytest.mark.parametrize("text", RUNS, ids=range(len(RUNS)))
def test_a_text_is_read_once(text: str) -> None:
    assert len(rewritten(text)) <= LONGER * len(text)
    assert len(with_free_numbers(text)) <= LONGER * len(text)
    assert not reads(text)


LONG_LISTS = "lists.range(60000).map(x, x + 1).size() == 60000"
DOUBLED = "[1, 2]"
for _ in range(20):
    DOUBLED = f"cel.bind(a, {DOUBLED}, a + a)"

MAY_TAKE_LONG = {
    "loops in loops": "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, "
    "[1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, a + b + c + d + e > 0)))))",
    "a loop over attributes in three others": "device.attributes.all(a, device.attributes.all(b, "
    "device.attributes.all(c, device.attributes.all(d, a + b + c + d != ''))))",
    "a list that grows by each round": LONG_LISTS,
    "a list that is doubled again and again": f"size({DOUBLED}) > 1",
    "lists that are made one": "[[1], [2]].flatten() == [1, 2]",
    "a text whose length is not known": '"%s%s".format([device.driver, device.driver]) != ""',
    "a large pattern in a loop": 'lists.range(100).all(x, !"a".matches("(((a{10}){10}){10})"))',
    "a class of thousands of characters, repeated": '"a".matches("^\\\\pL{1,100}$")',
    "a pattern that is made on the way": '"a".find("a" + device.driver) != ""',
    "a pattern too large to be compiled": '"a".find("(((a{1000}){10}){10})") != ""',
}


@pytest.mark.parametrize("expression", MAY_TAKE_LONG.values(), ids=MAY_TAKE_LONG.keys())
def test_may_take_longer_than_a_turn(expression: str) -> None:
    assert CEL.check(expression).steps > TURN_STEPS


def test_what_people_write_does_not_take_long() -> None:
    """It is evaluated at once."""
    usual = [e for e in TRUE if ".format(" not in e and ".flatten(" not in e]
    steps = {e: CEL.check(e).steps for e in usual if CEL.check(e).cost <= MAX_COST}
    assert len(steps) > 70
    assert {e: n for e, n in steps.items() if n > TURN_STEPS // 4} == {}


PIECES = [*(f"({e})" for e in TRUE[:20]), "true", "[1, 2].exists(i, i > 1)", f'{OURS}.type.matches("a")']


@settings(max_examples=30)
@given(st.sampled_from(PIECES), st.sampled_from(PIECES), st.integers(1, 30))
def test_a_selector_with_more_in_it_costs_as_much_or_more(a: str, b: str, rounds: int) -> None:
    alone = CEL.check(a)
    longer = CEL.check(f"{a} && {b}")
    assert longer.cost == alone.cost + CEL.check(b).cost
    begin = CEL.check("true").steps
    assert longer.steps == alone.steps + CEL.check(b).steps - begin
    looped = [CEL.check(f"lists.range({n}).all(i, {a})").steps for n in (rounds, rounds + 1)]
    assert looped[1] - looped[0] >= alone.steps - begin


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [
        ("a" * 60 + "!", "(a+)+$", ""),
        ("a" * 60, "(a|aa)+b", ""),
        ("x" * 60, "(x*)*y", ""),
        ("a" * 40, "(a?){40}a{40}", "a" * 40),
    ],
)
def test_a_pattern_is_matched_without_going_back(text: str, pattern: str, found: str) -> None:
    assert cel_regex.find(text, pattern) == found
    assert cel_regex.find_all(text, pattern) == ([found] if found else [])


@pytest.mark.parametrize("pattern", ["(a)\\1", "(?=a)", "a{2000}", "(", "(?<n>a)(?P=n)"])
def test_a_pattern_that_needs_going_back_is_none(pattern: str) -> None:
    with pytest.raises(ValueError, match="Illegal regex"):
        cel_regex.find("a", pattern)


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [("baaab", "a*", ["", "aaa", ""]), ("ab", "a*", ["a", ""]), ("", "a*", [""]), ("äöä", "ä", ["ä", "ä"])],
)
def test_empty_matches_are_counted_as_in_go(text: str, pattern: str, found: list[str]) -> None:
    assert cel_regex.find_all(text, pattern) == found
    assert cel_regex.find_all(text, pattern, 1) == found[:1]
    assert cel_regex.find_all(text, pattern, 0) == []


LARGEST = quantity.parse("1e1000")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e9999", LARGEST),
        ("1e19999", LARGEST),
        ("-1e9999", -LARGEST),
        ("1e4294967297", 10),  # of the exponent 32 bits count
        ("1e-9999", quantity.parse("1n")),
        ("-1e-9999", quantity.parse("-1n")),
        ("0e9999", 0),
        (f"1{'0' * 9000}", LARGEST),
        (f"1.{'0' * 9000}1", quantity.parse("1000000001n")),
        (f"0.{'0' * 9000}1Ei", quantity.parse("1n")),
        (f"{'0' * 9000}1", 1),
        (f"1.{'1' * 9000}", quantity.parse("1111111112n")),
        (f"{'9' * 9000}Ki", 2**63 - 1),
        (f"1e{'0' * 9000}3", 1000),
    ],
)
def test_no_number_is_built_that_is_longer_than_the_largest(text: str, number: int) -> None:
    value = quantity.parse(text)
    assert value == number
    assert value.numerator.bit_length() <= LARGEST.numerator.bit_length()
    assert value.denominator <= 10**9


@pytest.mark.parametrize("text", [f"1e{'9' * 9000}", "1e9223372036854775808", "٣", "1e٣", "Ei", "e-12"])
def test_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity.parse(text)


def test_arithmetic_stays_within_what_is_left_of_the_largest() -> None:
    sums = 'quantity("1e9999").add(quantity("1e9999")).sub(quantity("1")).asApproximateFloat() > 1e300'
    assert CEL.select(ONE, sums) == (True,)


@pytest.mark.parametrize(
    "text",
    [f"1.2.{'9' * 5000}", f"{'1' * 5000}.0.0", f"1.0.0-{'9' * 5000}", "1.2.3\n", f"1.2.3-{'a.' * 4000}"],
)
def test_no_version(text: str) -> None:
    with pytest.raises(ValueError, match=r"semantic version|above"):
        semver.parse(semver.normalize(text))


# Turns and what is kept


def many() -> NodeDevices:
    """100 devices of which no two are alike."""
    lines = (f"gpu-{n}: type=gpu rail={n} serial=s{n}" for n in range(100))
    return NodeDevices.build(world.slices(lines), world.node())


FIRST_HALF = f"{OURS}.rail < 50"


class Counted(CelCache):
    """Counts turns."""

    def turns(self, node: NodeDevices, expression: str, steps: int) -> int:
        for turn in range(1, 10_000):
            try:
                with self.turn(steps):
                    assert self.select(node, expression).count(True) == 50
            except SelectorsPendingError:
                continue
            return turn
        raise AssertionError("it comes to no end")


def test_a_sweep_takes_several_turns_each_of_which_gets_further() -> None:
    cel = Counted()
    steps, node = cel.check(FIRST_HALF).steps, many()
    assert cel.turns(node, FIRST_HALF, 10 * steps) == 10
    assert cel.turns(node, FIRST_HALF, 10 * steps) == 1  # it is known


def test_a_turn_that_is_too_short_for_anything_does_one_thing() -> None:
    cel = Counted()
    assert cel.turns(many(), FIRST_HALF, 1) == 101  # one compiles


def test_outside_of_turns_all_is_evaluated() -> None:
    cel = CelCache()
    node = many()
    with pytest.raises(SelectorsPendingError), cel.turn(1):
        cel.select(node, FIRST_HALF)
    assert cel.select(node, FIRST_HALF).count(True) == 50


def test_waiting_for_selectors_may_pass_by_itself() -> None:
    assert issubclass(SelectorsPendingError, RetryableError)


class Later:
    """Answers when it was asked twice, one device at a time."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verdicts(self, expression: str, contents: list[Content]) -> list[Verdict | None] | Program:
        self.asked.append(expression)
        if expression.startswith("(" * 50):
            return Program(None, "Syntax error")
        return [True if len(self.asked) > 1 and not index else None for index, _ in enumerate(contents)]


def test_what_may_take_long_is_evaluated_beside_and_asked_for_again() -> None:
    later = Later()
    cel = CelCache(later)  # type: ignore[arg-type]
    assert cel.select(ONE, "device.driver != ''") == (True,)
    assert later.asked == []
    two = NodeDevices.build(
        world.slices([DEVICE, DEVICE.replace("gpu-0", "gpu-1").replace("=3", "=4")]), world.node()
    )
    for _ in range(2):
        with pytest.raises(SelectorsPendingError) as pending:
            cel.select(two, LONG_LISTS)
        assert pending.value.seconds > 0
    assert cel.select(two, LONG_LISTS) == (True, True)
    assert cel.select(two, LONG_LISTS) == (True, True)
    assert later.asked == [LONG_LISTS] * 3


LEAKS = [
    "isQuantity(device.driver)",
    '"a".find("a") == "a"',
    "[1, 2].max() == 2",
    "string(1) == '1' || isIP('a')",
]
LEAKS += [
    "{'a': 1}.transformMap(k, v, v) == {'a': 1}",
    "!format.uri().validate('/p').hasValue()",
    "[1].indexOf(1) == 0",
]


@pytest.mark.parametrize("expression", LEAKS)
def test_functions_of_ours_are_known(expression: str) -> None:
    assert CEL.check(expression).leaks
    assert not CEL.check("device.driver.lowerAscii() == '' && [1].sort() == [1] && 'a'.matches('a')").leaks


def test_what_leaks_is_evaluated_beside_after_a_while() -> None:
    later = Later()
    cel = CelCache(later)  # type: ignore[arg-type]
    leaks = "lists.range(1000).all(i, isQuantity('1'))"
    rounds = 0
    while not later.asked:
        rounds += 1
        with suppress(SelectorsPendingError):
            cel.select(many_like(rounds), leaks)
    assert 10 <= rounds * cel.check(leaks).steps / 50_000 * 10 <= 12
    assert cel.select(ONE, "device.driver != ''") == (True,)  # does not leak


def many_like(number: int) -> NodeDevices:
    """One device unlike all others."""
    return NodeDevices.build(world.slices([f"gpu-0: type=gpu rail={number}"]), world.node())


def test_kept_goes_first_in_first_out_by_weight() -> None:
    kept: Kept[str, int] = Kept(10)
    assert kept.put("a", 1, 4) == []
    assert kept.put("b", 2, 4) == []
    assert kept.put("a", 3, 5) == []
    assert kept.put("c", 4, 2) == [("b", 2)]
    assert (kept.get("a"), kept.get("b"), kept.get("c"), kept.weight, len(kept)) == (3, None, 4, 7, 2)
    assert kept.put("d", 5, 50) == [("a", 3), ("c", 4)]
    assert kept.get("d") == 5


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), max_size=50))
def test_kept_never_weighs_more_than_it_may(puts: list[tuple[int, int]]) -> None:
    kept: Kept[int, int] = Kept(12)
    held: dict[int, int] = {}
    for key, weight in puts:
        for gone, _ in kept.put(key, weight, weight):
            del held[gone]
        held[key] = weight
        assert kept.weight == sum(held.values()) <= 12
        assert {key: kept.get(key) for key in held} == held
