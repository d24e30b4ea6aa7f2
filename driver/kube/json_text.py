"""Walks over JSON text without decoding it, at any depth and whatever its strings hold.

The API server keeps some fields as users sent them (`runtime.RawExtension`: opaque parameters, the data of
devices), and Go's decoder accepts more than others do: 10,000 levels of nesting, and escapes that are half
of a surrogate pair. So what surrounds such a field must be found without decoding it. Nothing here recurses,
and every byte is looked at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb"[^\s,:\[\]{}\"]++")
_TO_BRACKETS: Final = re.compile(
    rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+(?:([\[{]++)|([\]}]++))', re.DOTALL
)


class JsonTextError(ValueError):
    """The text ends too early, or is no JSON."""


class Cursor:
    """A place in a JSON text. After each member or element, the caller moves the cursor past its value.

    Attributes:
        text: all of it.
        at: offset of the next value, in bytes.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = _SPACE.match(text).end()  # type: ignore[union-attr]  # it matches everywhere

    def head(self) -> bytes:
        """Return the first byte of the value, empty at the end."""
        return self.text[self.at : self.at + 1]

    def skip(self) -> bytes:
        """Move past the value and return its bytes.

        Raises:
            JsonTextError: it does not end.
        """
        begin = self.at
        head = self.head()
        if head in (b"{", b"["):
            self.at = self._closing()
        else:
            found = (_STRING if head == b'"' else _SCALAR).match(self.text, begin)
            if found is None:
                raise JsonTextError(f"no JSON value at byte {begin}")
            self.at = found.end()
        return self.text[begin : self.at]

    def members(self) -> Iterator[bytes]:
        """Move into an object; yield the name of each member, as it is quoted, with the cursor at its value.

        Raises:
            JsonTextError: no object stands here, or it does not end.
        """
        for _ in self._inside(b"{", b"}"):
            if self.head() != b'"':
                raise JsonTextError(f"no member's name at byte {self.at}")
            name = self.skip()
            self._take(b":")
            yield name

    def elements(self) -> Iterator[None]:
        """Move into an array; yield with the cursor at each element.

        Raises:
            JsonTextError: no array stands here, or it does not end.
        """
        return self._inside(b"[", b"]")

    def end(self) -> None:
        """Raise JsonTextError unless nothing is left."""
        self._pass_space()
        if self.at != len(self.text):
            raise JsonTextError(f"byte {self.at} is one too many")

    def _inside(self, opening: bytes, closing: bytes) -> Iterator[None]:
        self._take(opening)
        if self.head() == closing:
            self._take(closing)
            return
        while True:
            yield
            self._pass_space()
            if self.head() == closing:
                self._take(closing)
                return
            self._take(b",")

    def _take(self, sign: bytes) -> None:
        self._pass_space()
        if self.head() != sign:
            raise JsonTextError(f"{sign.decode()!r} is missing at byte {self.at}")
        self.at += 1
        self._pass_space()

    def _pass_space(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]

    def _closing(self) -> int:
        """Return the offset behind the bracket that closes the one here."""
        depth = 0
        for found in _TO_BRACKETS.finditer(self.text, self.at):
            opened, closed = found.span(1), found.span(2)
            if opened[0] >= 0:
                depth += opened[1] - opened[0]
            elif depth > closed[1] - closed[0]:
                depth -= closed[1] - closed[0]
            else:
                return closed[0] + depth
        raise JsonTextError(f"the value at byte {self.at} does not end")
