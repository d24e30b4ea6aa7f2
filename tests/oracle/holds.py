"""Holds an answer against the rules of resource.k8s.io/v1, the slow and obvious way, on the API's own JSON.

It shares nothing with the allocator. It looks at what was given, not at whether more could be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from tests.oracle.generate import CLASSES, EXPRESSIONS, NODE, THE_NODE, Json

_UNITS: Mapping[str, int | Fraction] = {"Gi": 2**30, "Mi": 2**20, "Ki": 2**10, "m": Fraction(1, 1000)}
Key = tuple[str, str, str]
"""Driver, pool, device."""


def broken(question: Json, allocations: Sequence[Json]) -> list[str]:
    """The rules that allocations (of the claims that had none, in their order) break."""
    return list(_Check(question, allocations).faults())


def amount(text: str) -> Fraction:
    """A quantity in the few forms that these questions have."""
    for suffix, unit in _UNITS.items():
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * unit
    return Fraction(text)


class _Check:
    def __init__(self, question: Json, allocations: Sequence[Json]) -> None:
        self._claims = [c for c in question["claims"] if "status" not in c]
        self._given = [a["devices"]["results"] for a in allocations]
        self._held = [
            result
            for claim in question["claims"]
            if "status" in claim
            for result in claim["status"]["allocation"]["devices"]["results"]
            if not result.get("adminAccess")
        ]
        newest: Counter[tuple[str, str]] = Counter()
        for one in question["slices"]:
            pool = one["spec"]["driver"], one["spec"]["pool"]["name"]
            newest[pool] = max(newest[pool], one["spec"]["pool"]["generation"])
        self._devices: dict[Key, Json] = {}
        self._reached: set[Key] = set()
        self._counters: dict[tuple[str, str, str, str], Fraction] = {}
        for one in question["slices"]:
            spec = one["spec"]
            driver, pool = spec["driver"], spec["pool"]["name"]
            if spec["pool"]["generation"] < newest[driver, pool]:
                continue
            for device in spec.get("devices", ()):
                key = driver, pool, device["name"]
                self._devices[key] = device
                if _reaches(device if spec.get("perDeviceNodeSelection") else spec):
                    self._reached.add(key)
            for counters in spec.get("sharedCounters", ()):
                for name, counter in counters["counters"].items():
                    self._counters[driver, pool, counters["name"], name] = amount(counter["value"])

    def faults(self) -> Iterator[str]:
        if len(self._given) != len(self._claims):
            yield f"{len(self._given)} allocations for {len(self._claims)} claims"
            return
        for claim, results in zip(self._claims, self._given, strict=True):
            name = claim["metadata"]["name"]
            if len(results) > 32:
                yield f"{name} has more than 32 results"
            yield from (f"{name}: {fault}" for fault in self._requests(claim, results))
            yield from (f"{name}: {fault}" for fault in self._constraints(claim, results))
        yield from self._owners()
        yield from self._shares()
        yield from self._draws()

    def _requests(self, claim: Json, results: Sequence[Json]) -> Iterator[str]:
        by_request: defaultdict[str, list[Json]] = defaultdict(list)
        for result in results:
            by_request[result["request"]].append(result)
        for request in claim["spec"]["devices"]["requests"]:
            wishes = [(request["name"], request["exactly"])] if "exactly" in request else []
            wishes += [(f"{request['name']}/{s['name']}", s) for s in request.get("firstAvailable", ())]
            met = [(name, wish) for name, wish in wishes if name in by_request]
            if len(met) != 1:
                yield f"{request['name']} is met {len(met)} times"
                continue
            name, wish = met[0]
            mine = by_request.pop(name)
            keys = [_key(result) for result in mine]
            if len(set(keys)) < len(keys):
                yield f"{name} has a device twice"
            fitting = {key for key in self._reached if self._fits(key, wish)}
            if wish.get("allocationMode") == "All":
                if set(keys) != fitting:
                    yield f"{name} wants all: {sorted(fitting ^ set(keys))}"
            elif len(keys) != wish.get("count", 1):
                yield f"{name} has {len(keys)} of {wish.get('count', 1)}"
            for key, result in zip(keys, mine, strict=True):
                if key not in fitting:
                    yield f"{name}: {key} does not fit"
                elif any(_repels(taint, wish) for taint in self._devices[key].get("taints", ())):
                    yield f"{name}: {key} is tainted"
                if bool(result.get("adminAccess")) != bool(wish.get("adminAccess")):
                    yield f"{name}: adminAccess of {key}"
                yield from self._share(name, self._devices.get(key, {}), wish, result)
        if by_request:
            yield f"results for {sorted(by_request)}"

    def _fits(self, key: Key, wish: Json) -> bool:
        """Selected, and of enough capacity beside what earlier claims hold."""
        device = self._devices[key]
        expressions = [*CLASSES[wish["deviceClassName"]]]
        expressions += [s["cel"]["expression"] for s in wish.get("selectors", ())]
        if not all(EXPRESSIONS[e](key[0], device) for e in expressions):
            return False
        taken = consumed(device, wish)
        if taken is None:
            return False
        shares = [r for r in self._held if _key(r) == key and "shareID" in r]
        return all(
            taken[name] + sum(amount(s.get("consumedCapacity", {}).get(name, "0")) for s in shares)
            <= amount(capacity["value"])
            for name, capacity in device.get("capacity", {}).items()
        )

    @staticmethod
    def _share(name: str, device: Json, wish: Json, result: Json) -> Iterator[str]:
        if not device.get("allowMultipleAllocations"):
            if "shareID" in result or "consumedCapacity" in result:
                yield f"{name}: a share of {result['device']}, which is not shared"
            return
        said = {n: amount(v) for n, v in result.get("consumedCapacity", {}).items()}
        if "shareID" not in result or said != consumed(device, wish):
            yield f"{name}: consumes {said} of {result['device']}, not {consumed(device, wish)}"

    def _constraints(self, claim: Json, results: Sequence[Json]) -> Iterator[str]:
        for constraint in claim["spec"]["devices"].get("constraints", ()):
            names = constraint["requests"]
            values = [
                self._value(_key(r), constraint["matchAttribute"])
                for r in results
                if not names or r["request"] in names or r["request"].split("/")[0] in names
            ]
            if None in values or len(set(values)) > 1:
                yield f"{constraint['matchAttribute']} of {names}: {values}"

    def _value(self, key: Key, name: str) -> object:
        attributes = self._devices[key].get("attributes", {})
        domain, short = name.split("/")
        found = attributes.get(name, attributes.get(short) if domain == key[0] else None)
        return None if found is None else tuple(found.items())

    def _owners(self) -> Iterator[str]:
        owners = Counter(_key(r) for r in self._held if "shareID" not in r)
        admins: dict[Key, int] = {}
        for number, results in enumerate(self._given):
            mine = Counter(_key(r) for r in results if "shareID" not in r)
            yield from (f"claim {number} has {key} twice" for key, n in mine.items() if n > 1)
            for result in results:
                key = _key(result)
                if "shareID" in result:
                    if owners[key] and not result.get("adminAccess"):
                        yield f"{key} is held and shared"
                elif not result.get("adminAccess"):
                    owners[key] += 1
                    if owners[key] > 1:
                        yield f"{key} is given twice"
                    if admins.get(key, number) < number:
                        yield f"{key} is given after admin access to it"
                else:
                    admins.setdefault(key, number)

    def _shares(self) -> Iterator[str]:
        ids = Counter((_key(r), r["shareID"]) for r in self._all() if "shareID" in r)
        yield from (f"share {name} is there twice" for name, n in ids.items() if n > 1)
        for key, device in self._devices.items():
            mine = [r for r in self._all() if _key(r) == key and "shareID" in r]
            if not any(r in results for r in mine for results in self._given):
                continue
            for name, capacity in device.get("capacity", {}).items():
                total = sum(amount(r.get("consumedCapacity", {}).get(name, "0")) for r in mine)
                if total > amount(capacity["value"]):
                    yield f"{name} of {key}: {total} is too much"

    def _draws(self) -> Iterator[str]:
        """Counters of sets from which something new draws are not overdrawn."""
        spent: Counter[tuple[str, str, str, str]] = Counter()
        touched = set()
        shared = {_key(r) for r in self._held if "shareID" in r}
        for key in {_key(r) for r in self._held if _key(r) in self._devices}:
            spent.update(self._draw(key))
        for results in self._given:
            for result in results:
                key = _key(result)
                if "shareID" in result and key in shared:
                    continue
                shared |= {key} if "shareID" in result else set()
                spent.update(self._draw(key))
                touched |= {counter[:3] for counter in self._draw(key)}
        for counter, limit in self._counters.items():
            if counter[:3] in touched and spent[counter] > limit:
                yield f"counter {counter}: {spent[counter]} of {limit}"

    def _draw(self, key: Key) -> dict[tuple[str, str, str, str], int]:
        return {
            (key[0], key[1], use["counterSet"], name): int(counter["value"])
            for use in self._devices[key].get("consumesCounters", ())
            for name, counter in use["counters"].items()
        }

    def _all(self) -> Iterator[Json]:
        yield from self._held
        for results in self._given:
            yield from results


def consumed(device: Json, wish: Json) -> dict[str, Fraction] | None:
    """What the wish takes of each capacity; None where it asks for what the device does not give."""
    wanted = wish.get("capacity", {}).get("requests", {})
    capacities = device.get("capacity", {})
    if set(wanted) - set(capacities):
        return None
    answer: dict[str, Fraction] = {}
    for name, capacity in capacities.items():
        policy = capacity.get("requestPolicy", {})
        if name not in wanted:
            answer[name] = amount(policy.get("default", capacity["value"]))
            continue
        took = amount(wanted[name])
        if "validValues" in policy:
            enough = [amount(v) for v in policy["validValues"] if amount(v) >= took]
            if not enough:
                return None
            took = enough[0]
        if "validRange" in policy:
            least, step = amount(policy["validRange"]["min"]), policy["validRange"].get("step")
            took = max(took, least)
            if step:
                took = least + amount(step) * -(-(took - least) // amount(step))
            if "max" in policy["validRange"] and took > amount(policy["validRange"]["max"]):
                return None
        answer[name] = took
    return answer


def _key(result: Mapping[str, str]) -> Key:
    return result["driver"], result["pool"], result["device"]


def _reaches(place: Json) -> bool:
    if "nodeName" in place:
        return bool(place["nodeName"] == NODE["metadata"]["name"])
    if "nodeSelector" in place:
        return any(term in THE_NODE for term in place["nodeSelector"]["nodeSelectorTerms"])
    return bool(place.get("allNodes"))


def _repels(taint: Json, wish: Json) -> bool:
    return taint["effect"] != "None" and not any(
        t.get("key", taint["key"]) == taint["key"]
        and t.get("effect", taint["effect"]) == taint["effect"]
        and (t["operator"] == "Exists" or t.get("value", "") == taint["value"])
        for t in wish.get("tolerations", ())
    )
