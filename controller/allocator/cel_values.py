"""Values that CEL has no type for, as the C++ runtime can carry them.

It has no opaque values for Python, so quantities, versions, addresses, networks, URLs and formats travel as
small protobuf messages that hold their canonical text: equality of messages is then equality of values, as
Kubernetes' CEL has it. The one field is called ``in``, a word that no CEL expression can select, so nobody
comes to rely on the text.
"""

from __future__ import annotations

from typing import Final

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_PACKAGE: Final = "tandem.cel"
_FIELD: Final = "in"
_NAMES: Final = ("Quantity", "Semver", "Ip", "Cidr", "Url", "Format")


def _declare() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="tandem/cel.proto", package=_PACKAGE, syntax="proto3")
    for name in _NAMES:
        message = file.message_type.add(name=name)
        message.field.add(
            name=_FIELD,
            number=1,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _NAMES
    }


_CLASSES: Final = _declare()

QUANTITY, SEMVER, IP, CIDR, URL, FORMAT = (cel.Type(f"{_PACKAGE}.{name}") for name in _NAMES)


def make(kind: cel.Type, text: str) -> Message:
    """A value of this kind with this canonical text."""
    return _CLASSES[kind.name().rpartition(".")[2]](**{_FIELD: text})


def text_of(kind: cel.Type, value: object) -> str:
    """The text of a value that must be of this kind.

    Raises:
        TypeError: it is not (the runtime tells overloads apart by kind of argument alone, and takes all
            messages for one).
    """
    if not isinstance(value, _CLASSES[kind.name().rpartition(".")[2]]):
        raise TypeError("no such overload")
    return str(getattr(value, _FIELD))


def is_of(kind: cel.Type, value: object) -> bool:
    """Is the value of this kind?"""
    return isinstance(value, _CLASSES[kind.name().rpartition(".")[2]])
