"""Kubernetes' CEL library of named formats (``format.dns1123Label().validate(text)``).

What it calls an optional is a list of one or none here, of which `cel_syntax` takes the first: the runtime
lets Python functions return no optionals. The texts of faults are our own.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any, Final

from cel_expr_python import cel
from google.protobuf.message import Message

from controller.allocator import cel_regex
from controller.allocator.cel_network import parse_url
from controller.allocator.cel_values import FORMAT, make, text_of

_SHOWN: Final = 64
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035: Final = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_NAME: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_UUID: Final = r"(?i:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})"
_BASE64: Final = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})"
_DATE_TIME: Final = cel_regex.new(r"(\d{4}-\d\d-\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _like(pattern: str, most: int | None = None) -> Callable[[str], bool]:
    compiled = cel_regex.new(pattern)
    return lambda text: (most is None or len(text) <= most) and compiled.fullmatch(text) is not None


def _prefix(whole: Callable[[str], bool]) -> Callable[[str], bool]:
    """Of what more will be appended to: it may end in a dash."""
    return lambda text: whole(f"{text[:-2]}a" if len(text) > 1 and text.endswith("-") else text)


_is_name = _like(_NAME, 63)
_is_subdomain = _like(_SUBDOMAIN, 253)


def _qualified_name(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    return _is_name(name) and (not slash or _is_subdomain(prefix))


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _date(text: str) -> object:
    return datetime.datetime.strptime(text, "%Y-%m-%d")  # only whether it is one


def _date_time(text: str) -> bool:
    found = _DATE_TIME.fullmatch(text)
    return found is not None and _parses(_date)(found[1]) and int(found[2]) < 24 and int(found[3]) < 60


_FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "dns1123Label": _like(_LABEL, 63),
    "dns1123Subdomain": _like(_SUBDOMAIN, 253),
    "dns1035Label": _like(_LABEL_1035, 63),
    "qualifiedName": _qualified_name,
    "dns1123LabelPrefix": _prefix(_like(_LABEL, 63)),
    "dns1123SubdomainPrefix": _prefix(_like(_SUBDOMAIN, 253)),
    "dns1035LabelPrefix": _prefix(_like(_LABEL_1035, 63)),
    "labelValue": _like(f"({_NAME})?", 63),
    "uri": _parses(parse_url),
    "uuid": _like(_UUID),
    "byte": _like(_BASE64),
    "date": _parses(_date),
    "datetime": _date_time,
}


def _named(name: str) -> list[Message]:
    return [make(FORMAT, name)] if name in _FORMATS else []


def _faults(value: Any, text: str) -> list[list[str]]:
    name = text_of(FORMAT, value)
    return [] if _FORMATS[name](text) else [[f"{text[:_SHOWN]!r} is no {name}"]]


def declarations() -> list[cel.FunctionDecl]:
    """The functions for a CEL environment, by the names that `cel_syntax` gives them."""
    t = cel.Type

    def constant(name: str) -> cel.FunctionDecl:
        overload = cel.Overload(
            f"format_{name}", return_type=FORMAT, parameters=[], impl=lambda: make(FORMAT, name)
        )
        return cel.FunctionDecl(f"format.{name}", [overload])

    named = cel.Overload("format_named", return_type=t.List(FORMAT), parameters=[t.STRING], impl=_named)
    faults = cel.Overload(
        "format_faults",
        return_type=t.List(t.List(t.STRING)),
        parameters=[FORMAT, t.STRING],
        is_member=True,
        impl=_faults,
    )
    return [
        *(constant(name) for name in _FORMATS),
        cel.FunctionDecl("format.namedAny", [named]),
        cel.FunctionDecl("validateAny", [faults]),
    ]
