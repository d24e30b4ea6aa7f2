"""JSON that the API server keeps in free-form fields, and that decoders other than Go's give up on."""

from __future__ import annotations

from typing import Final

DEEP: Final = b'{"a":' + b"[" * 4_000 + b"]" * 4_000 + b"}"
DEEP_OBJECTS: Final = b'{"":' * 1_500 + b"1" + b"}" * 1_500
HALF_A_PAIR: Final = rb'{"a":"\ud800"}'
HALF_A_PAIR_IN_A_NAME: Final = rb'{"\udfff and more":[{"]}\"":"}{\\"}]}'
NO_UTF8: Final = b'{"a":"\xff\xfe"}'
MANY_DIGITS: Final = b'{"a":' + b"9" * 9_000 + b"}"

HOSTILE: Final = {
    "deep": DEEP,
    "deep objects": DEEP_OBJECTS,
    "half a pair": HALF_A_PAIR,
    "half a pair in a name": HALF_A_PAIR_IN_A_NAME,
    "no UTF-8": NO_UTF8,
    "many digits": MANY_DIGITS,
}
"""By name: objects of at most 10 KiB, as the API server asks of opaque parameters."""


def a_claim_with(parameters: bytes, *, name: str = "c", driver: str = "other.io", version: int = 1) -> bytes:
    """Return a claim, allocated, with these parameters in every place where the API server takes them."""
    opaque = b'{"driver":"%s","parameters":%s}' % (driver.encode(), parameters)
    return (
        b'{"kind":"ResourceClaim","apiVersion":"resource.k8s.io/v1",'
        b'"metadata":{"name":"%(name)s","namespace":"tenant","uid":"uid-%(name)s","resourceVersion":"%(version)d",'
        b'"managedFields":[{"manager":"m","fieldsV1":{"f:spec":{}}}]},'
        b'"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"other",'
        b'"allocationMode":"ExactCount","count":1}}],"config":[{"requests":["r"],"opaque":%(opaque)s}]}},'
        b'"status":{"allocation":{"devices":{"results":[{"request":"r","driver":"%(driver)s","pool":"n0",'
        b'"device":"d0"}],"config":[{"source":"FromClaim","requests":["r"],"opaque":%(opaque)s}]}},'
        b'"devices":[{"driver":"%(driver)s","pool":"n0","device":"d0","conditions":null,"data":%(data)s}]}}'
    ) % {
        b"name": name.encode(),
        b"version": version,
        b"opaque": opaque,
        b"driver": driver.encode(),
        b"data": parameters,
    }
