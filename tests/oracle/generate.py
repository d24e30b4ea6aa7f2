"""Random questions to an allocator: small clusters over all features of DRA, as the API server would accept
them.

Kept out: distinctAttribute (Kubernetes 1.36 accepts x, y, x), expressions that fail on a device (whether
Kubernetes meets it depends on the order in which it tries devices), devices with a node selector of several
terms (Kubernetes finds them, but cannot write what it has found; we name the node instead), and requests for
less than nothing of a capacity (Kubernetes gives it to others; we refuse).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

Json = dict[str, Any]

DRIVERS: Final = ("tandem-dra.io", "nic.example.com")
NODE: Final[Json] = {"metadata": {"name": "node", "labels": {"zone": "a", "size": "5"}}}


def _need(key: str, operator: str, *values: str, of: str = "matchExpressions") -> Json:
    """A term of a node selector."""
    return {of: [{"key": key, "operator": operator, **({"values": [*values]} if values else {})}]}


THE_NODE: Final[Sequence[Json]] = (
    _need("zone", "In", "a"),
    _need("zone", "NotIn", "b"),
    _need("zone", "Exists"),
    _need("nowhere", "DoesNotExist"),
    _need("size", "Gt", "4"),
    _need("size", "Lt", "6"),
    _need("metadata.name", "In", "node", of="matchFields"),
    _need("zone", "In", "a", "b") | _need("metadata.name", "NotIn", "other", of="matchFields"),
)
NOT_THE_NODE: Final[Sequence[Json]] = (
    _need("zone", "In", "b"),
    _need("zone", "NotIn", "a"),
    _need("zone", "DoesNotExist"),
    _need("size", "Gt", "5"),
    _need("zone", "Lt", "5"),
    _need("metadata.name", "NotIn", "node", of="matchFields"),
    _need("zone", "In", "a") | _need("metadata.name", "In", "other", of="matchFields"),
    {},
)
"""Node selector terms that mean the node, and such that do not."""

ATTRIBUTES: Final = (
    "resource.kubernetes.io/pcieRoot",
    "resource.kubernetes.io/numaNode",
    "tandem-dra.io/color",
    "nic.example.com/color",
    "tandem-dra.io/firmware",
)
CAPACITIES: Final = ("memory", "bandwidth")


def _text(device: Json, name: str) -> object:
    value = device.get("attributes", {}).get(name)
    return None if value is None else next(iter(value.values()))


def _color(driver: str, device: Json) -> tuple[object, ...]:
    """The color of the first driver's domain; a tuple of one, or empty."""
    qualified = _text(device, ATTRIBUTES[2])
    color = qualified if qualified is not None or driver != DRIVERS[0] else _text(device, "color")
    return () if color is None else (color,)


def _capacity(device: Json, name: str) -> object:
    return device.get("capacity", {}).get(name, {}).get("value")


EXPRESSIONS: Final[Mapping[str, Callable[[str, Json], bool]]] = {
    "true": lambda driver, d: True,
    f'device.driver == "{DRIVERS[0]}"': lambda driver, d: driver == DRIVERS[0],
    'device.attributes[device.driver].?type.orValue("") == "gpu"': (
        lambda driver, d: _text(d, "type") == "gpu"
    ),
    'device.attributes[device.driver].?type.orValue("") in ["nic", "vf"]': (
        lambda driver, d: _text(d, "type") in ("nic", "vf")
    ),
    f'device.attributes["{DRIVERS[0]}"].?color.orValue(-1) == 0': (
        lambda driver, d: _color(driver, d) == (0,)
    ),
    'device.attributes["nowhere.example.com"].?color.hasValue()': lambda driver, d: False,
    "has(device.capacity[device.driver].memory) && "
    'device.capacity[device.driver].memory.compareTo(quantity("8Gi")) >= 0': (
        lambda driver, d: _capacity(d, "memory") in ("8Gi", "16Gi")
    ),
    "device.allowMultipleAllocations": lambda driver, d: bool(d.get("allowMultipleAllocations")),
    "!device.allowMultipleAllocations": lambda driver, d: not d.get("allowMultipleAllocations"),
}
"""What requests may ask, and what it means: by driver and device."""

CLASSES: Final[Mapping[str, Sequence[str]]] = {
    "any": (),
    "gpu": ('device.attributes[device.driver].?type.orValue("") == "gpu"',),
    "nic": ("true", 'device.attributes[device.driver].?type.orValue("") in ["nic", "vf"]'),
}
_DEVICE_PLACES: Final = ("name", "name", "selector", "all", "elsewhere")
_SELECTORS: Final = tuple(EXPRESSIONS)[1:]


def question(seed: int, number: int) -> Json:
    """The question of this name: ``node``, ``slices``, ``classes``, ``claims`` as the API has them."""
    return _Generator(Random(f"{seed}/{number}")).question()


class _Generator:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._devices: list[tuple[str, str, Json]] = []  # driver, pool, device
        # A case shows few features at once, or nothing would ever be placed.
        self._shared = self._chance(0.3)
        self._counted = self._chance(0.35)
        self._tainted = self._chance(0.3)
        self._admin = self._chance(0.25)
        self._flexible = self._chance(0.5)
        self._matched = self._chance(0.6)

    def _chance(self, of_one: float) -> bool:
        return self._random.random() < of_one

    def _some(self, things: Sequence[str], most: int) -> list[str]:
        return self._random.sample(things, self._random.randint(1, min(most, len(things))))

    def question(self) -> Json:
        slices: list[Json] = []
        for number in range(self._random.choice((1, 1, 1, 2, 3))):
            slices += self._pool(number)
        self._random.shuffle(slices)
        claims = self._holders()
        claims += [self._claim(i) for i in range(self._random.choice((1, 1, 1, 2, 2, 3)))]
        classes = [
            {
                "metadata": {"name": name},
                "spec": {"selectors": [{"cel": {"expression": e}} for e in expressions]},
            }
            for name, expressions in CLASSES.items()
        ]
        return {"node": NODE, "slices": slices, "classes": classes, "claims": claims}

    # --- devices -----------------------------------------------------------------------------------

    def _pool(self, number: int) -> list[Json]:
        driver = self._random.choice((DRIVERS[0], *DRIVERS))
        pool = f"pool-{number}"
        sets = self._counter_sets() if self._counted and self._chance(0.8) else {}
        where = self._random.choice((*["name"] * 6, "selector", "all", "device", "device", "elsewhere"))
        generation = self._random.randint(1, 3)
        parts: list[Json] = []
        for part in range(self._random.choice((1, 1, 2, 3))):
            devices = [
                self._device(f"d{number}{part}{i}", sets) for i in range(self._random.choice((1, 2, 3, 4, 5)))
            ]
            place = self._place(where)
            if where == "device":
                for device in devices:
                    device |= self._place(self._random.choice(_DEVICE_PLACES))
            elif where == "selector" and self._chance(0.2):
                place = self._place("elsewhere")
            parts.append({**place, "devices": devices})
            self._devices += [(driver, pool, device) for device in devices]
        if sets:
            parts.append(
                {
                    **self._place("all" if where == "device" else where),
                    "sharedCounters": [
                        {"name": name, "counters": {c: {"value": v} for c, v in counters.items()}}
                        for name, counters in sets.items()
                    ],
                }
            )
        count = len(parts)
        fate = self._random.random()
        if fate < 0.03:
            count += 1  # a slice has not come yet
        elif fate < 0.06 and len(parts) > 1 and "devices" in parts[1]:
            parts[1]["devices"].append(dict(parts[0]["devices"][0]))  # the same name twice
        elif fate < 0.09 and sets:
            self._devices[-1][2]["consumesCounters"] = [
                {"counterSet": "unknown", "counters": {"a": {"value": "1"}}}
            ]
        slices = [
            self._slice(f"{pool}-{i}", driver, pool, generation, count, part) for i, part in enumerate(parts)
        ]
        if self._chance(0.1):  # what is left of an older generation
            old = self._slice(f"{pool}-old", driver, pool, generation - 1, 1, parts[0])
            slices.insert(0, old)
        return slices

    @staticmethod
    def _slice(name: str, driver: str, pool: str, generation: int, count: int, part: Json) -> Json:
        described = {"name": pool, "generation": generation, "resourceSliceCount": count}
        return {"metadata": {"name": name}, "spec": {"driver": driver, "pool": described, **part}}

    def _place(self, where: str) -> Json:
        def selected(needs: Sequence[Json]) -> Json:
            return {"nodeSelector": {"nodeSelectorTerms": [self._random.choice(needs)]}}

        if where == "elsewhere":
            return self._random.choice(({"nodeName": "other"}, selected(NOT_THE_NODE)))
        return {
            "name": {"nodeName": "node"},
            "selector": selected(THE_NODE),
            "all": {"allNodes": True},
            "device": {"perDeviceNodeSelection": True},
        }[where]

    def _counter_sets(self) -> dict[str, dict[str, str]]:
        names = self._some(("s0", "s1"), 2)
        return {n: {c: str(self._random.randint(1, 6)) for c in self._some(("a", "b"), 2)} for n in names}

    def _device(self, name: str, sets: Mapping[str, Mapping[str, str]]) -> Json:
        device: Json = {"name": name, "attributes": {"type": {"string": self._random.choice(("gpu", "vf"))}}}
        attributes = device["attributes"]
        if self._chance(0.85):
            attributes[ATTRIBUTES[0]] = {"string": f"root-{self._random.randint(0, 2)}"}
        if self._chance(0.7):
            attributes[ATTRIBUTES[1]] = {"int": self._random.randint(0, 1)}
        if self._chance(0.6):
            value = self._random.choice(({"int": 0}, {"int": 1}, {"int": 1}))
            attributes[self._random.choice(("color", "color", ATTRIBUTES[2]))] = value
        if self._chance(0.4):
            same = (
                {"string": "1.2.3"},
                {"version": "1.2.3"},
                {"version": "1.2.3+b"},
                {"bool": True},
                {"int": 1},
            )
            attributes[self._random.choice(("firmware", ATTRIBUTES[4]))] = self._random.choice(same)
        if self._shared and self._chance(0.7):
            device["allowMultipleAllocations"] = True
        if self._chance(0.8 if self._shared else 0.2):
            device["capacity"] = {
                c: self._capacity(policy=device.get("allowMultipleAllocations", False))
                for c in self._some(CAPACITIES, 2)
            }
        if sets and self._chance(0.8):
            device["consumesCounters"] = [
                {
                    "counterSet": counter_set,
                    "counters": {
                        c: {"value": str(self._random.randint(0, 3))}
                        for c in self._some(tuple(sets[counter_set]), 2)
                    },
                }
                for counter_set in self._some(tuple(sets), 2)
            ]
        if self._tainted and self._chance(0.4):
            effect = self._random.choice(("NoSchedule", "NoSchedule", "NoExecute", "None"))
            key = self._random.choice(("broken", "slow"))
            device["taints"] = [{"key": key, "value": self._random.choice(("", "very")), "effect": effect}]
            if self._chance(0.2):
                device["taints"].append({"key": "far", "value": "very", "effect": "NoSchedule"})
        if self._chance(0.03):
            device |= {"bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]}
        return device

    def _capacity(self, *, policy: bool) -> Json:
        capacity: Json = {"value": self._random.choice(("4Gi", "8Gi", "8Gi", "16Gi"))}
        if policy and self._chance(0.5):
            kind = self._random.choice(("default", "values", "range", "step"))
            found: Json = {"default": self._random.choice(("1Gi", "2Gi"))}
            if kind == "values":
                found["validValues"] = ["1Gi", "2Gi", "4Gi"]
            elif kind != "default":
                found["validRange"] = {"min": "1Gi"}
                if self._chance(0.5):
                    found["validRange"]["max"] = "4Gi"
                if kind == "step":
                    found["validRange"]["step"] = self._random.choice(("1Gi", "512Mi"))
            capacity["requestPolicy"] = found
        return capacity

    # --- claims ------------------------------------------------------------------------------------

    def _holders(self) -> list[Json]:
        """Claims that hold devices already."""
        claims: list[Json] = []
        if self._chance(0.4):
            return claims
        for driver, pool, device in self._devices:
            if not self._chance(0.25):
                continue
            results: list[Json] = [{"request": "r", "driver": driver, "pool": pool, "device": device["name"]}]
            if device.get("allowMultipleAllocations"):
                results[0]["shareID"] = f"00000000-0000-4000-8000-{len(claims):012}"
                amounts = {c: self._random.choice(("1Gi", "2Gi", "3Gi")) for c in device.get("capacity", {})}
                if amounts:
                    results[0]["consumedCapacity"] = amounts
            if self._admin and self._chance(0.3):
                results[0]["adminAccess"] = True
            claims.append(
                {
                    "metadata": {"name": f"held-{len(claims)}", "namespace": "ns", "uid": f"h{len(claims)}"},
                    "spec": {"devices": {"requests": [self._request("r")]}},
                    "status": {"allocation": {"devices": {"results": results}}},
                }
            )
        return claims

    def _claim(self, number: int) -> Json:
        requests = [self._request(f"r{i}") for i in range(self._random.choice((1, 1, 2, 2, 3)))]
        names = [request["name"] for request in requests]
        names += [
            f"{request['name']}/{sub['name']}"
            for request in requests
            for sub in request.get("firstAvailable", ())
        ]
        devices: Json = {"requests": requests}
        if self._matched and self._chance(0.8):
            devices["constraints"] = [
                {
                    "matchAttribute": self._random.choice(
                        (*ATTRIBUTES[:2], *ATTRIBUTES[:3], *ATTRIBUTES[3:])
                    ),
                    "requests": self._random.choice(
                        ([], [request["name"] for request in requests], self._some(names, 3))
                    ),
                }
                for _ in range(self._random.choice((1, 1, 2)))
            ]
        return {
            "metadata": {"name": f"claim-{number}", "namespace": "ns", "uid": f"c{number}"},
            "spec": {"devices": devices},
        }

    def _request(self, name: str) -> Json:
        if self._flexible and self._chance(0.5):
            subs = [{"name": f"s{i}", **self._wish()} for i in range(self._random.choice((1, 2, 2, 3)))]
            return {"name": name, "firstAvailable": subs}
        wish = self._wish()
        if self._admin and self._chance(0.5):
            wish["adminAccess"] = True
        return {"name": name, "exactly": wish}

    def _wish(self) -> Json:
        wish: Json = {"deviceClassName": self._random.choice(("any", "any", "gpu", "nic"))}
        if self._chance(0.01):
            wish["deviceClassName"] = "unknown"
        if self._chance(0.15):
            wish["allocationMode"] = "All"
        else:
            wish |= {
                "allocationMode": "ExactCount",
                "count": self._random.choice((1, 1, 1, 1, 2, 2, 3, 4, 1, 1, 1, 1, 1, 12)),
            }
        if self._chance(0.3):
            wish["selectors"] = [{"cel": {"expression": self._random.choice(_SELECTORS)}}]
        if self._tainted and self._chance(0.5):
            toleration: Json = {"operator": "Exists"}
            if self._chance(0.7):
                toleration["key"] = self._random.choice(("broken", "slow"))
            if self._chance(0.3):
                toleration |= {"operator": "Equal", "value": self._random.choice(("", "very"))}
            if self._chance(0.3):
                toleration["effect"] = self._random.choice(("NoSchedule", "NoExecute"))
            wish["tolerations"] = [toleration]
        if self._chance(0.5 if self._shared else 0.03):
            amounts = ("1Gi", "1500Mi", "2Gi", "3Gi", "5Gi", "9Gi", "0", "0.5")
            wish["capacity"] = {
                "requests": {c: self._random.choice(amounts) for c in self._some(CAPACITIES, 2)[:1]}
            }
        return wish
