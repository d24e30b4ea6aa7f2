"""Where `tandem plan` gets its objects from: files (YAML, JSON, lists of either), standard input, the API."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from controller.reading import ClaimReader
from controller.validation.documents import KubeObject, decode, items_of
from driver.errors import InvalidObjectError, KubeNotFoundError, KubeUnreadableError
from driver.kube import paths
from driver.kube.client import KubeClient
from driver.kube.decoding import Decoder
from driver.kube.fabric import FabricNetwork, Namespace
from driver.kube.json_text import Cursor
from driver.kube.objects import DeviceClass, Node, Pod, ResourceClaim, ResourceSlice
from driver.kube.storage import PersistentVolume, PersistentVolumeClaim, StorageClass

STDIN = "-"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a time is text, and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def read(files: Sequence[str], driver_name: str) -> tuple[list[KubeObject], list[str]]:
    """The objects of all files in their order, and what was passed over, in words.

    Raises:
        InvalidObjectError: a file cannot be read, or the API server would refuse an object in it.
    """
    objects: list[KubeObject] = []
    skipped: list[str] = []
    for name in files:
        for document, kind in _documents(name, _text(name)):
            found = decode(document, driver_name, kind)
            if found is not None:
                objects.append(found)
            else:
                header = _HEADER.decode(document)
                skipped.append(f"{header.kind} {header.metadata.name}".strip())
    return objects, skipped


def from_cluster(client: KubeClient, warn: Callable[[str], None]) -> list[KubeObject]:
    """What the cluster holds now; an object that cannot be read is told to `warn` and left out.

    Raises:
        KubeError: the API server does not answer, or refuses.
    """

    def skip(error: KubeUnreadableError) -> None:
        warn(str(error))

    objects: list[KubeObject] = []
    objects += client.list(paths.nodes(), Node, skip=skip)[0]
    objects += client.list(paths.slices(), ResourceSlice, skip=skip)[0]
    objects += client.list(paths.classes(), DeviceClass, skip=skip)[0]
    objects += client.list(paths.namespaces(), Namespace, skip=skip)[0]
    with contextlib.suppress(KubeNotFoundError):  # no such kind: there are none
        objects += client.list(paths.networks(), FabricNetwork, skip=skip)[0]
    objects += client.list(paths.storage_classes(), StorageClass, skip=skip)[0]
    objects += client.list(paths.volumes(), PersistentVolume, skip=skip)[0]
    objects += client.list(paths.volume_claims(), PersistentVolumeClaim, skip=skip)[0]
    objects += client.list(paths.claims(), ResourceClaim, read=ClaimReader(), skip=skip)[0]
    objects += client.list(paths.pods(), Pod, skip=skip)[0]
    return objects


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == STDIN else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidObjectError(f"cannot be read: {error}", object=_shown(name)) from error


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else name


def _documents(name: str, text: str) -> Iterator[tuple[bytes, str]]:
    """Each object as JSON, with the kind that a typed list says it has."""
    for document in _json(name, text) if text.lstrip()[:1] in ("{", "[") else _yaml(name, text):
        yield from _items(document, "")


def _items(document: bytes, kind: str) -> Iterator[tuple[bytes, str]]:
    items = items_of(document)
    if items is None:
        yield document, kind
        return
    of = _HEADER.decode(document).kind.removesuffix("List")
    for item in items:
        yield from _items(item, of)


class _Name(msgspec.Struct, frozen=True):
    name: str = ""


class _Header(msgspec.Struct):
    kind: str = ""
    metadata: _Name = _Name()


_HEADER = Decoder(_Header)


class _NoUnicodeError(InvalidObjectError):
    """A text has half a surrogate pair."""


def _json(name: str, text: str) -> Iterator[bytes]:
    """JSON documents one after the other, or YAML in flow style, which begins like JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        pass
    else:
        yield text.encode()
        return
    decoder, at, found = json.JSONDecoder(), 0, []
    try:
        while at < len(text):
            document, at = _first(name, decoder, text, at)
            found.append(document)
            while at < len(text) and text[at].isspace():
                at += 1
    except ValueError:
        found = list(_yaml(name, text))
    yield from found


def _first(name: str, decoder: json.JSONDecoder, text: str, at: int) -> tuple[bytes, int]:
    """The document that begins there, and where it ends. Raises ValueError where it is no JSON."""
    try:
        value, end = decoder.raw_decode(text, at)
        return _encoded(name, value), end
    except RecursionError:
        document = Cursor(text[at:].encode()).skip()
        return document, at + len(document.decode())
    except _NoUnicodeError:  # half a surrogate pair
        return text[at:end].encode(), end


def _yaml(name: str, text: str) -> Iterator[bytes]:
    try:
        for document in yaml.load_all(text, Loader=_Loader):  # a SafeLoader
            if document is not None:
                yield _encoded(name, document)
    except RecursionError as error:
        raise InvalidObjectError("is nested too deeply", object=_shown(name)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidObjectError(f"is no YAML{where}: {problem}", object=_shown(name)) from error


def _encoded(name: str, document: object) -> bytes:
    if not isinstance(document, dict):
        shown = json.dumps(document, default=str)
        raise InvalidObjectError(f"a document is {shown[:120]}; right is an object", object=_shown(name))
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError as error:
        raise _NoUnicodeError(f"cannot be JSON: {error}", object=_shown(name)) from error
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidObjectError(f"cannot be JSON: {error}", object=_shown(name)) from error
