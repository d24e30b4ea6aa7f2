"""Kubernetes' device selectors: its environment, its functions, its errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.allocator import quantity, semver
from controller.allocator.cel import CelCache, SelectorError
from controller.allocator.cel_syntax import rewritten as rewrite
from controller.allocator.model import NodeDevices
from tests.unit.allocator import world

CEL = CelCache()
DEVICE = "gpu-0: type=gpu rail=3 ready=true fw=v1.22.3 pcieRoot=pci0000:15 mem~80Gi cores~500m"
ONE = NodeDevices.build(world.slices([DEVICE]), world.node())
OURS = 'device.attributes["tandem-dra.io"]'
MEMORY = 'device.capacity["tandem-dra.io"].mem'


TRUE = [
    'device.driver == "tandem-dra.io"',
    "!device.allowMultipleAllocations",
    f'{OURS}.type == "gpu" && {OURS}.rail == 3 && {OURS}.ready',
    f"{OURS}.ready",
    'device.attributes["resource.kubernetes.io"].pcieRoot.startsWith("pci0000:")',
    '"tandem-dra.io" in device.attributes',
    '!("unknown" in device.attributes)',
    'size(device.attributes["unknown"]) == 0',
    '!has(device.attributes["unknown"].x)',
    f"!has({OURS}.x) && has({OURS}.rail)",
    f"{OURS}.?x.orValue(7) == 7",
    'device.attributes[?"unknown"].?x.orValue(7) == 7',
    'cel.bind(a, device.attributes["tandem-dra.io"], a.rail == 3)',
    f'{MEMORY}.compareTo(quantity("80Gi")) == 0',
    f'{MEMORY} == quantity("81920Mi")',
    f'{MEMORY}.isGreaterThan(quantity("79Gi")) && {MEMORY}.isLessThan(quantity("1Ti"))',
    f'{MEMORY}.sub(quantity("40Gi")).asInteger() == 42949672960',
    'device.capacity["tandem-dra.io"].cores.asApproximateFloat() == 0.5',
    'sign(quantity("1").add(1).sub(quantity("3"))) == -1',
    'isQuantity("1.5Gi") && !isQuantity("80 GB") && !quantity("0.5").isInteger()',
    f'{OURS}.fw.isGreaterThan(semver("1.9.0")) && {OURS}.fw == semver("1.22.3")',
    f"{OURS}.fw.major() == 1 && {OURS}.fw.minor() == 22 && {OURS}.fw.patch() == 3",
    'semver("1.2.3-rc.2").isLessThan(semver("1.2.3")) && semver("v1.2", true) == semver("1.2.0")',
    'isSemver("1.2.3") && !isSemver("1.2") && isSemver("v1.02", true)',
    "[3, 1].max() == 3 && [1, 2].sum() == 3 && [1, 2].isSorted() && sets.contains([1, 2], [2])",
    '"mlx5_10".find("[0-9]+$") == "10" && "a1b2".findAll("[0-9]") == ["1", "2"]',
    '["a", "b"].exists(i, v, i == 1 && v == "b") && "A,b".lowerAscii().split(",") == ["a", "b"]',
    f'{OURS}.type in ["gpu", "mig"] && {OURS}.type.matches("^g.u$")',
    '"device.attributes[" != "]"',
    '[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && ["a"].indexOf("b") == -1',
    '"tacocat".indexOf("c") == 2 && "tacocat".indexOf("c", 3) == 4 && "tacocat".lastIndexOf("c", 3) == 2',
    '"indexOf(" != ".indexOf("',
    'ip("192.168.0.1").family() == 4 && ip("::1").isLoopback()',
    '!isIP("1.2.3") && !isIP("fe80::1%eth0")',
    'ip("::1") == ip("0:0:0:0:0:0:0:1") && ip.isCanonical("::1") && !ip.isCanonical("0::1")',
    'ip("224.0.0.1").isLinkLocalMulticast() && ip("fe80::1").isLinkLocalUnicast()',
    'ip("::").isUnspecified()',
    'ip("192.168.0.1").isGlobalUnicast() && !ip("255.255.255.255").isGlobalUnicast()',
    'cidr("10.0.0.0/8").containsIP("10.1.2.3") && !cidr("10.0.0.0/8").containsIP(ip("11.0.0.1"))',
    'cidr("10.0.0.0/8").containsCIDR("10.1.0.0/16")',
    '!cidr("10.0.0.0/8").containsCIDR(cidr("0.0.0.0/0"))',
    'cidr("10.1.2.3/8").ip() == ip("10.1.2.3") && cidr("10.1.2.3/8").masked() == cidr("10.0.0.0/8")',
    'cidr("fd00::/64").prefixLength() == 64 && !isCIDR("10.0.0.0/255.0.0.0") && !isCIDR("10.0.0.0/08")',
    'url("https://[::1]:80/a b?k=1&k=2").getHost() == "[::1]:80" && isURL("/path") && !isURL("path")',
    'url("https://Host:80/a b").getHostname() == "Host" && url("https://Host:80/a b").getPort() == "80"',
    'url("https://h/a b?k=1&k=2").getEscapedPath() == "/a%20b"',
    'url("/p?k=1&k=2").getQuery()["k"][1] == "2"',
    'url("https://h").getScheme() == "https" && url("/p").getHost() == ""',
    'url("/p") == url("/p") && url("https://h/p?q").getEscapedPath() == "/p"',
    '"%s has %d of %.2f, %x, %b, %o".format(["a", 1, 1.5, 255, 5, 8]) == "a has 1 of 1.50, ff, 101, 10"',
    'string(ip("::1")) == "::1" && string(cidr("10.1.2.3/8")) == "10.1.2.3/8"',
    'string(cidr("10.1.2.3/8").masked()) == "10.0.0.0/8" && string(1) + string(true) == "1true"',
    'string(ip("1.2.3.4")) == "1.2.3.4" && string(1u) + string(1.5) + string(b"a") == "11.5a"',
    '!format.dns1123Label().validate("my-name").hasValue()',
    'format.dns1123Label().validate("My-Name").hasValue()',
    'size(format.named("dns1123Label").value().validate("-").value()) >= 1',
    '!format.named("nothing").hasValue() && format.dns1035Label().validate("1a").hasValue()',
    '!format.dns1123Subdomain().validate("a.b").hasValue()',
    '!format.dns1123LabelPrefix().validate("a-").hasValue()',
    '!format.dns1123SubdomainPrefix().validate("a.b-").hasValue()',
    '!format.dns1035LabelPrefix().validate("a-").hasValue()',
    '!format.qualifiedName().validate("a.b/C_d").hasValue()',
    'format.qualifiedName().validate("a/b/c").hasValue()',
    '!format.labelValue().validate("").hasValue() && format.labelValue().validate("-").hasValue()',
    '!format.uri().validate("https://h/p").hasValue() && format.uri().validate("p").hasValue()',
    '!format.uuid().validate("123e4567-e89b-12d3-a456-426614174000").hasValue()',
    '!format.byte().validate("aGk=").hasValue() && format.byte().validate("aGk").hasValue()',
    '!format.date().validate("2026-02-28").hasValue() && format.date().validate("2026-02-30").hasValue()',
    '!format.datetime().validate("2026-02-28T01:02:03Z").hasValue()',
    'format.datetime().validate("2026-02-28").hasValue()',
    '"a1b2".findAll("[0-9]", 1) == ["1"] && "a1b2".find("x") == "" && "a".findAll("x") == []',
    "[3, 1, 2].sort() == [1, 2, 3] && [1, 1].distinct() == [1] && lists.range(2) == [0, 1]",
    "[[1], [2]].flatten() == [1, 2] && [1, 2, 3].slice(1, 2) == [2] && [1, 2].reverse() == [2, 1]",
    '["ab", "a"].sortBy(s, size(s)) == ["a", "ab"] && [1, 2].first().value() == 1',
    "sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2]) && [0.5, 1.5].sum() == 2.0",
    "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().hasValue()",
    '{"a": 1}.transformList(k, v, k + string(v)) == ["a1"] && {"a": 1}.all(k, v, v == 1)',
    '" a ".trim() == "a" && "a-b".replace("-", "+") == "a+b" && "abc".substring(1, 2) == "b"',
    '"abc".charAt(1) == "b" && ["a", "b"].join("+") == "a+b" && strings.quote("a") == "\\"a\\""',
    'quantity("100k").asInteger() == 100000 && quantity("1.5").asApproximateFloat() > 1.4',
    '"a.b".contains(".") && "a".endsWith("a") && "A".upperAscii() == "A" && size("ab") == 2',
    "1 < 2.0 && 2u > 1 && -1 <= 0.5 && 1e1 >= 10",
    '"a//b" != "" && 1 < 2.0 && "1 < 2" == "1 " + "< 2"',
    'quantity("1.5").asApproximateFloat() > 1 && 0 < quantity("1.5").asApproximateFloat()',
    '{"a": 1}.transformMap(k, v, v + size("a, b")) == {"a": 5} && [7].transformMap(i, v, v > 7, v) == {}',
    '{"a": 1, "b": 2}.transformMapEntry(k, v, v > 1, {v: k}) == {2: "b"}',
    "[optional.of(1), optional.none()].unwrapOpt() == [1] && optional.unwrap([optional.of(2)]) == [2]",
    'duration("90s") > duration("1m") && timestamp("2026-01-01T00:00:00Z").getFullYear() == 2026',
]


@pytest.mark.parametrize("expression", TRUE)
def test_true_of_this_device(expression: str) -> None:
    assert CEL.select(ONE, expression) == (True,)


CANNOT_BE_TOLD = [
    (f"{OURS}.x == 1", 'Key not found in map : "x"'),
    ('device.attributes["unknown"].x == 1', 'Key not found in map : "x"'),
    (f'{OURS}.type.compareTo(quantity("1")) == 0', "No matching overloads"),
    (f'{OURS}.fw.compareTo(quantity("1")) == 0', "no such overload"),
    ('quantity("80 GB").isInteger()', "no quantity"),
    ('ip("::ffff:1.2.3.4").family() == 4', "IPv4 in IPv6"),
    ('cidr("10.0.0.0/8").containsIP(quantity("1") == quantity("1") ? dyn(1) : dyn(2))', "overload"),
    (f"{OURS}.rail", "not true or false"),
    ("[1, 2].transformMapEntry(i, v, {0: v}) == {}", "already exists"),
]


@pytest.mark.parametrize(("expression", "why"), CANNOT_BE_TOLD)
def test_cannot_be_told_of_this_device(expression: str, why: str) -> None:
    (verdict,) = CEL.select(ONE, expression)
    assert isinstance(verdict, str)
    assert why in verdict


DO_NOT_COMPILE = [
    ("device.nope", "undeclared reference to 'device.nope'"),
    ("device.driver == 1", "no matching overload"),
    ("1 +", "Syntax error"),
    ('"text"', "must evaluate to bool"),
    ('quantity("1") == semver("1.0.0")', "no matching overload"),
    ('quantity("1").text == "1"', "undefined field"),
    ('quantity("1").in == "1"', "Syntax error"),
    ('has(quantity("1").in)', "must be a field selection"),
    ('"ab".reverse() == "ba"', "no matching overload"),
    ("1 == 1.0", "no matching overload"),
    ('1 < "2"', "no matching overload"),
]

ERRORS = [expression for expression, _ in (*CANNOT_BE_TOLD, *DO_NOT_COMPILE)]

TOO_MUCH = [  # by the API server's rules, or by a limit of our own
    (f'"{"x" * 10_240}" == ""', "is longer than 10240 bytes"),
]


@pytest.mark.parametrize(("expression", "why"), [*DO_NOT_COMPILE, *TOO_MUCH])
def test_does_not_compile(expression: str, why: str) -> None:
    with pytest.raises(SelectorError, match="does not compile") as caught:
        CEL.check(expression)
    assert why in caught.value.detail
    assert caught.value.expression == expression


@pytest.mark.parametrize(
    ("expression", "rewritten"),
    [
        (
            'device.attributes["a"].x',
            'device.attributes[?"a"].orValue({}).x',
        ),
        (
            'device.capacity[?"a"].?x',
            'optional.of(device.capacity[?"a"].orValue({})).?x',
        ),
        ("'device.attributes[1]' == r'\\'", "'device.attributes[1]' == r'\\'"),
        (
            '"\\"device.attributes[" // device.attributes["a"]',
            '"\\"device.attributes[" // device.attributes["a"]',
        ),
        ('my.device.attributes["a"]', 'my.device.attributes["a"]'),
    ],
)
def test_only_look_ups_of_a_domain_are_rewritten(expression: str, rewritten: str) -> None:
    assert rewrite(expression) == rewritten


def test_a_domain_may_be_looked_up_inside_another_look_up() -> None:
    inner = 'device.attributes["tandem-dra.io"].type == "gpu" ? "tandem-dra.io" : "x"'
    assert CEL.select(ONE, f"device.attributes[{inner}].rail == 3") == (True,)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1500m", "1.5"),
        ("1e3", "1k"),
        ("1E", "1e18"),
        ("1Ki", "1024"),
        (".5", "500m"),
        ("-1", "-1000m"),
        ("2.", "2"),
        ("0.0000000001", "1n"),  # there is nothing smaller
        ("-0.0000000015", "-2n"),
        ("8Ei", "9223372036854775807"),  # nor a larger one with a binary suffix
        ("9223372036854775807Ki", "8Ei"),
    ],
)
def test_quantities_of_one_value_are_equal(text: str, same: str) -> None:
    assert quantity.parse(text) == quantity.parse(same)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1KI", "1ki", "--1", "1e", "0x1", "1Gi2"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity.parse(text)


@given(st.integers(0, 2**32), st.sampled_from(["", "k", "Ki", "M", "Mi", "Gi", "m"]))
def test_a_quantity_scales_with_its_number(number: int, suffix: str) -> None:
    assert quantity.parse(f"{number}{suffix}") == number * quantity.parse(f"1{suffix}")


def test_versions_are_ordered_as_the_specification_says() -> None:
    order = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
    ]
    order += ["1.0.0-rc.1", "1.0.0", "1.9.0", "1.10.0"]
    shuffled = order[::-1]
    assert sorted(shuffled, key=lambda text: semver.parse(text).key()) == order


@pytest.mark.parametrize("text", ["1.2", "01.2.3", "v1.2.3", "1.2.3-01", "1.2.3-", ""])
def test_what_is_no_strict_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no semantic version"):
        semver.parse(text)
