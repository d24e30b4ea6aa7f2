"""CNI's answers as its specification (0.3.0 to 1.1.0) has them: results that extend prevResult, errors."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from driver.errors import TandemError


class Code(enum.IntEnum):
    """Error codes: 1 to 99 are the specification's (section 'Error'), 100 and above are ours."""

    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    CONFIG = 7
    TRY_LATER = 11
    CLAIM_IN_USE = 100
    INTERFACE_EXISTS = 101
    NOT_AS_ATTACHED = 102
    KERNEL = 103


class CniError(TandemError):
    """Becomes the answer of a call that failed.

    Attributes:
        code, msg, details: fields of the CNI error object.
    """

    def __init__(self, code: Code, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def encode(self, cni_version: str) -> bytes:
        """The JSON object for stdout."""
        return msgspec.json.encode(
            {
                "cniVersion": cni_version,
                "code": int(self.code),
                "msg": f"tandem: {self.msg}",
                "details": self.details,
            }
        )


@dataclass(frozen=True, slots=True)
class AttachedInterface:
    """An interface of ours in the pod: `mtu` in bytes, `addresses` in CIDR form, `sandbox` is CNI_NETNS."""

    name: str
    mac: str
    mtu: int
    sandbox: str
    pci_address: str
    addresses: tuple[str, ...] = ()


def encode_result(previous: Mapping[str, Any], ours: Sequence[AttachedInterface], cni_version: str) -> bytes:
    """prevResult with our interfaces and addresses behind its own; all else passes through as it came.

    ``ips[].interface`` is an index into ``interfaces``. Fields that a version does not know are left out:
    ``mtu`` and ``pciID`` came with 1.1.0, ``ips[].version`` went with 1.0.0.
    """
    number = _version(cni_version)
    interfaces = list(previous.get("interfaces") or ())
    ips = list(previous.get("ips") or ())
    for item in ours:
        interface: dict[str, Any] = {"name": item.name, "mac": item.mac, "sandbox": item.sandbox}
        if number >= (1, 1, 0):
            interface |= {"mtu": item.mtu, "pciID": item.pci_address}
        interfaces.append(interface)
        for address in item.addresses:
            ip: dict[str, Any] = {"interface": len(interfaces) - 1, "address": address}
            if number < (1, 0, 0):
                ip["version"] = str(ipaddress.ip_interface(address).version)
            ips.append(ip)
    result = dict(previous) | {"cniVersion": cni_version}
    if interfaces:
        result["interfaces"] = interfaces
    if ips:
        result["ips"] = ips
    return msgspec.json.encode(result)


def _version(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError as error:
        raise CniError(Code.CONFIG, f"cniVersion {text!r} is not a version such as 1.1.0") from error
