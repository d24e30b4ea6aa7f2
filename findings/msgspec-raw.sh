#!/bin/sh
# msgspec 0.22.0: a field of type msgspec.Raw, and a field that the type does not name, are checked all the same.
# So JSON that RFC 8259 allows in such a field, half a surrogate pair as an escape, makes the whole text undecodable,
# and the message speaks of truncated input. json of the standard library takes it. Text that is no UTF-8 passes.
# Exits non-zero if that changes.
set -eu
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" --quiet --disable-pip-version-check install msgspec==0.22.0
"$where/venv/bin/python" - <<'PYTHON'
import json
import msgspec


class Config(msgspec.Struct):
    driver: str
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


def answer(text: bytes) -> str:
    try:
        return f"decoded, driver {msgspec.json.decode(text, type=Config).driver}"
    except msgspec.DecodeError as error:
        return f"{type(error).__name__}: {error}"


half = rb'{"a":"\ud800"}'
raw = answer(b'{"driver":"d","parameters":' + half + b"}")
unknown = answer(b'{"driver":"d","unknown":' + half + b"}")
no_utf8 = answer(b'{"driver":"d","parameters":{"a":"\xff"}}')
print(f"msgspec {msgspec.__version__}")
print(f"half a pair in a Raw field:         {raw}")
print(f"half a pair in a field not named:   {unknown}")
print(f"no UTF-8 in a Raw field:            {no_utf8}")
print(f"half a pair in the standard library: decoded, {json.loads(half)!r}")
assert raw.startswith("DecodeError") and unknown.startswith("DecodeError")
assert no_utf8 == "decoded, driver d"
PYTHON
