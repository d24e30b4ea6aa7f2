"""Kubernetes' CEL functions on addresses, networks and URLs (its libraries ip, cidr and url)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from cel_expr_python import cel
from google.protobuf.message import Message

from controller.allocator.cel_values import CIDR, IP, URL, is_of, make, text_of

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_LOCAL_MULTICAST: Final = ipaddress.IPv4Network("224.0.0.0/24")
_PREFIX: Final = re.compile(r"[^/]+/(0|[1-9]\d{0,2})")
_ABSOLUTE: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:|/)[^\x00-\x1f\x7f]*")
_PLAIN: Final = tuple(
    getattr(cel.Type, name)
    for name in ("STRING", "INT", "UINT", "DOUBLE", "BOOL", "BYTES", "TIMESTAMP", "DURATION")
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_ip(text: str) -> _Address:
    """An address without zone; no IPv4 in IPv6. Raises ValueError."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise ValueError(f"IP address {text!r} with a zone, or IPv4 in IPv6, is not allowed")
    return address


def parse_cidr(text: str) -> _Interface:
    """A network as address and prefix length; bits behind the prefix stay. Raises ValueError."""
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"{text!r} is no network such as 10.0.0.0/8")
    parse_ip(text.partition("/")[0])
    return ipaddress.ip_interface(text)


def parse_url(text: str) -> SplitResult:
    """An absolute URL, or an absolute path. Raises ValueError."""
    parts = urlsplit(text)
    host_is_odd = parts.netloc and re.search(r"[\s<>\"]", parts.netloc)
    if not _ABSOLUTE.fullmatch(text) or host_is_odd or _BAD_ESCAPE.search(parts.netloc + parts.path):
        raise ValueError(f"{text!r} is no absolute URL or path")
    _ = parts.port  # must be a number
    return parts


def _ip(value: Any) -> _Address:
    return parse_ip(value if isinstance(value, str) else text_of(IP, value))


def _cidr(value: Any) -> _Interface:
    return parse_cidr(value if isinstance(value, str) else text_of(CIDR, value))


def _url(value: Any) -> SplitResult:
    return parse_url(text_of(URL, value))


def _to_ip(value: Any) -> Message:
    return make(IP, str(_cidr(value).ip if is_of(CIDR, value) else _ip(value)))


def _text(value: Any) -> str:
    return text_of(IP if is_of(IP, value) else CIDR, value)


def _same(value: Any) -> Any:
    return value


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _local_multicast(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return address in _LOCAL_MULTICAST
    return int(address) >> 112 & 0xFF0F == 0xFF02


def _global_unicast(address: _Address) -> bool:
    return address != _BROADCAST and not (
        address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    )


def _contains_ip(network: Any, address: Any) -> bool:
    return _ip(address) in _cidr(network).network


def _contains_cidr(network: Any, other: Any) -> bool:
    outer, inner = _cidr(network).network, _cidr(other).network
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _hostname(parts: SplitResult) -> str:
    """As it is written, unlike `SplitResult.hostname`."""
    host = _host(parts)
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def declarations() -> list[cel.FunctionDecl]:
    """The functions for a CEL environment."""
    t = cel.Type

    def function(name: str, *overloads: tuple[cel.Type, list[cel.Type], Any, bool]) -> cel.FunctionDecl:
        made = []
        for returns, takes, impl, member in overloads:
            kinds = "_".join(kind.name() for kind in takes).replace(".", "_")
            tag = f"{'member_' if member else ''}{name.replace('.', '_')}_{kinds}"
            more = {} if impl is None else {"impl": impl}
            made.append(cel.Overload(tag, return_type=returns, parameters=takes, is_member=member, **more))
        return cel.FunctionDecl(name, made)

    def member(
        name: str, on: cel.Type, returns: cel.Type, read: Callable[[Any], Any], of: Callable[[Any], Any]
    ) -> cel.FunctionDecl:
        return function(name, (returns, [on], lambda value: of(read(value)), True))

    def on_ip(name: str, returns: cel.Type, of: Callable[[_Address], Any]) -> cel.FunctionDecl:
        return member(name, IP, returns, _ip, of)

    def on_cidr(name: str, returns: cel.Type, of: Callable[[_Interface], Any]) -> cel.FunctionDecl:
        return member(name, CIDR, returns, _cidr, of)

    def on_url(name: str, returns: cel.Type, of: Callable[[SplitResult], Any]) -> cel.FunctionDecl:
        return member(name, URL, returns, _url, of)

    return [
        function("ip", (IP, [t.STRING], _to_ip, False), (IP, [CIDR], _to_ip, True)),
        function(  # `cel_syntax` puts it into ``string``
            "plainAny",
            (t.STRING, [IP], _text, False),
            (t.STRING, [CIDR], None, False),
            *((kind, [kind], _same, False) for kind in _PLAIN),
        ),
        function("isIP", (t.BOOL, [t.STRING], _parses(parse_ip), False)),
        function("ip.isCanonical", (t.BOOL, [t.STRING], lambda s: str(parse_ip(s)) == s, False)),
        on_ip("family", t.INT, lambda a: a.version),
        on_ip("isUnspecified", t.BOOL, lambda a: a.is_unspecified),
        on_ip("isLoopback", t.BOOL, lambda a: a.is_loopback),
        on_ip("isLinkLocalMulticast", t.BOOL, _local_multicast),
        on_ip("isLinkLocalUnicast", t.BOOL, lambda a: a.is_link_local),
        on_ip("isGlobalUnicast", t.BOOL, _global_unicast),
        function("cidr", (CIDR, [t.STRING], lambda s: make(CIDR, str(parse_cidr(s))), False)),
        function("isCIDR", (t.BOOL, [t.STRING], _parses(parse_cidr), False)),
        function(
            "containsIP",
            (t.BOOL, [CIDR, t.STRING], _contains_ip, True),
            (t.BOOL, [CIDR, IP], _contains_ip, True),
        ),
        function(
            "containsCIDR",
            (t.BOOL, [CIDR, t.STRING], _contains_cidr, True),
            (t.BOOL, [CIDR, CIDR], _contains_cidr, True),
        ),
        on_cidr("prefixLength", t.INT, lambda c: c.network.prefixlen),
        on_cidr("masked", CIDR, lambda c: make(CIDR, str(c.network))),
        function("url", (URL, [t.STRING], lambda s: make(URL, parse_url(s).geturl()), False)),
        function("isURL", (t.BOOL, [t.STRING], _parses(parse_url), False)),
        on_url("getScheme", t.STRING, lambda u: u.scheme),
        on_url("getHost", t.STRING, _host),
        on_url("getHostname", t.STRING, _hostname),
        on_url("getPort", t.STRING, lambda u: "" if u.port is None else str(u.port)),
        on_url("getEscapedPath", t.STRING, lambda u: quote(u.path, safe="%/:@!$&'()*+,;=~")),
        on_url(
            "getQuery",
            t.Map(t.STRING, t.List(t.STRING)),
            lambda u: parse_qs(u.query, keep_blank_values=True),
        ),
    ]
