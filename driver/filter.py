"""Which devices a node publishes, as an admin sets it: lists of patterns over names and attributes.

```yaml
publish:                      # any of these; all devices if left out
- {type: gpu}
- {type: vf, pfName: [mlx5_0, mlx5_3]}
withhold:                     # but none of these
- {name: "vf-0000-18-*"}
- {numaNode: 1}
```

A rule matches where all its attributes do; a pattern is a shell glob over the attribute's value as text. The
filter fails closed: one that cannot be understood is an error at start, and nothing is published by a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from driver.attribute_table import ATTRIBUTES
from driver.attributes import text_of
from driver.errors import ConfigError
from driver.kube.objects import DeviceAttribute
from driver.names import DRIVER_NAME

_NAME: Final = "name"
_SHORT: Final = {attribute.name.rpartition("/")[2]: attribute.name for attribute in ATTRIBUTES}
_KNOWN: Final = {attribute.name for attribute in ATTRIBUTES}

Patterns = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns by attribute name (as it stands in a slice) or ``name``; `text` is how it was written."""

    patterns: tuple[tuple[str, Patterns], ...]
    text: str

    def matches(self, name: str, attributes: Mapping[str, DeviceAttribute]) -> bool:
        """Does every attribute match one of its patterns? One that the device does not have matches none."""
        return all(
            any(fnmatchcase(value, pattern) for pattern in patterns)
            if (value := _value(key, name, attributes)) is not None
            else False
            for key, patterns in self.patterns
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """`publish` empty: every device; a device that a rule of `withhold` matches is not published."""

    publish: tuple[Rule, ...] = ()
    withhold: tuple[Rule, ...] = ()

    def withholds(self, name: str, attributes: Mapping[str, DeviceAttribute]) -> str:
        """Why a device is not published; empty if it is."""
        if self.publish and not any(rule.matches(name, attributes) for rule in self.publish):
            return "the filter publishes others only"
        for rule in self.withhold:
            if rule.matches(name, attributes):
                return f"the filter withholds {rule.text}"
        return ""


EVERYTHING: Final = Filter()
"""Withholds nothing."""

Value = str | int | bool
_Rule = dict[str, Value | list[Value]]


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    publish: list[_Rule] | None = None
    withhold: list[_Rule] = []


def parse(text: str, *, source: str = "filter") -> Filter:
    """Decode a filter's YAML (or JSON); an empty text is no filter.

    Raises:
        ConfigError: no YAML, an unknown attribute, an empty rule; with the path of the rule.
    """
    import yaml  # only where there is a filter

    try:
        document = msgspec.convert(yaml.safe_load(text) or {}, _Document)
    except yaml.YAMLError as error:
        raise ConfigError(f"is no YAML: {error}", path=source) from error
    except msgspec.ValidationError as error:
        raise ConfigError(str(error), path=source) from error
    if document.publish == []:
        raise ConfigError("is empty; leave it out to publish every device", path=f"{source}: publish")
    return Filter(
        publish=tuple(_rules(document.publish or [], f"{source}: publish")),
        withhold=tuple(_rules(document.withhold, f"{source}: withhold")),
    )


def _rules(rules: list[_Rule], path: str) -> Iterator[Rule]:
    for index, rule in enumerate(rules):
        where = f"{path}[{index}]"
        if not rule:
            raise ConfigError("is empty; name an attribute, such as {type: vf}", path=where)
        found = []
        for key, value in rule.items():
            values = value if isinstance(value, list) else [value]
            if not values:
                raise ConfigError("is an empty list, which matches nothing", path=f"{where}.{key}")
            found.append((_attribute(key, where), tuple(_text(v) for v in values)))
        text = ", ".join(f"{key}: {'|'.join(patterns)}" for key, patterns in found)
        yield Rule(tuple(found), f"{{{text}}}")


def _attribute(key: str, where: str) -> str:
    short = key.removeprefix(f"{DRIVER_NAME}/")
    if short == _NAME or short in _KNOWN:
        return short
    if short in _SHORT:
        return _SHORT[short]
    known = ", ".join(sorted({_NAME, *_SHORT}))
    raise ConfigError(f"there is no attribute {key!r}; known are {known}", path=where)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(key: str, name: str, attributes: Mapping[str, DeviceAttribute]) -> str | None:
    if key == _NAME:
        return name
    attribute = attributes.get(key)
    return text_of(attribute) if attribute is not None else None
