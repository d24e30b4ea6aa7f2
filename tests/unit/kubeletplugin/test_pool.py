from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from driver.kube.objects import (
    Device,
    DeviceTaint,
    ObjectMeta,
    ResourcePool,
    ResourceSlice,
    ResourceSliceSpec,
)
from kubeletplugin.pool import (
    Create,
    Delete,
    Update,
    Write,
    lost_taints,
    other_name,
    without_taints,
    writes,
)


def made(
    name: str, *devices: str, generation: int = 0, count: int = 2, taint: bool = False, version: str = ""
) -> ResourceSlice:
    taints = (
        [DeviceTaint(key="k", effect="NoSchedule", time_added="then" if version else None)] if taint else []
    )
    return ResourceSlice(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}" if version else "", resource_version=version),
        spec=ResourceSliceSpec(
            driver="d",
            pool=ResourcePool(name="p", generation=generation, resource_slice_count=count),
            node_name="n",
            devices=[Device(name=device, taints=taints) for device in devices],
        ),
    )


def there(*slices: ResourceSlice) -> dict[str, ResourceSlice]:
    return {slice_.metadata.name: slice_ for slice_ in slices}


WANTED = [made("a", "d1", taint=True), made("b", "d2", taint=True)]
STORED = there(
    made("a", "d1", generation=4, taint=True, version="7"),
    made("b", "d2", generation=4, taint=True, version="8"),
)


def test_nothing_is_written_where_all_is_as_it_must_be() -> None:
    assert writes(STORED, WANTED, 4) == []


def test_an_empty_node_begins_with_generation_one() -> None:
    steps = writes({}, WANTED, 0)
    assert [(type(s), s.slice.metadata.name, s.slice.spec.pool.generation) for s in steps] == [
        (Create, "a", 1),
        (Create, "b", 1),
    ]


def test_what_was_deleted_comes_back_in_its_generation() -> None:
    steps = writes(there(STORED["a"]), WANTED, 4)
    assert [(type(s), s.slice.metadata.name, s.slice.spec.pool.generation) for s in steps] == [
        (Create, "b", 4)
    ]
    assert {s.slice.spec.pool.generation for s in writes({}, WANTED, 4)} == {4}


def test_a_change_makes_a_new_generation_of_every_slice() -> None:
    steps = writes(STORED, [WANTED[0], made("b", "d3")], 4)
    assert [(type(s), s.slice.spec.pool.generation) for s in steps] == [(Update, 5), (Update, 5)]
    assert [s.slice.metadata.resource_version for s in steps] == ["7", "8"]


def test_an_update_keeps_the_time_of_a_taint_that_stays() -> None:
    first, _ = writes(STORED, [WANTED[0], made("b", "d3")], 4)
    assert first.slice.spec.devices[0].taints[0].time_added == "then"


def test_obsolete_slices_go_first() -> None:
    steps = writes(STORED, [made("a", "d1", count=1)], 4)
    assert [(type(s), s.slice.metadata.name) for s in steps] == [(Delete, "b"), (Update, "a")]
    assert steps[1].slice.spec.pool.resource_slice_count == 1


def test_a_slice_that_somebody_altered_is_overwritten_above_his_generation() -> None:
    altered = made("a", "d1", "mine", generation=9, version="9")
    steps = writes(there(altered, STORED["b"]), WANTED, 4)
    assert {s.slice.spec.pool.generation for s in steps} == {10}


def test_dropped_taints_are_seen_and_not_written_again() -> None:
    stored = without_taints(made("a", "d1", generation=1, count=1, version="3"))
    assert lost_taints(WANTED[0], stored)
    assert not lost_taints(made("a", "d1"), stored)
    assert writes(there(stored), [without_taints(made("a", "d1", count=1, taint=True))], 1) == []


def applied(observed: dict[str, ResourceSlice], steps: list[Write]) -> dict[str, ResourceSlice]:
    after = dict(observed)
    for step in steps:
        name = step.slice.metadata.name
        if isinstance(step, Delete):
            del after[name]
        else:
            meta = msgspec.structs.replace(step.slice.metadata, resource_version="99", uid=f"uid-{name}")
            after[name] = msgspec.structs.replace(step.slice, metadata=meta)
    return after


_slices = st.builds(
    lambda devices, generation, count: (devices, generation, count),
    st.lists(st.sampled_from(["x", "y"]), unique=True),
    st.integers(1, 5),
    st.integers(1, 3),
)


@given(st.dictionaries(st.sampled_from("abc"), _slices), st.sets(st.sampled_from("abc"), min_size=1))
def test_after_the_writes_the_pool_is_complete_in_one_newest_generation(
    found: dict[str, tuple[list[str], int, int]], names: set[str]
) -> None:
    observed = there(
        *(
            made(name, *devices, generation=generation, count=count, version="1")
            for name, (devices, generation, count) in found.items()
        )
    )
    desired = [made(name, "x", count=len(names)) for name in sorted(names)]
    after = applied(observed, writes(observed, desired, 0))
    assert after.keys() == names
    assert {slice_.spec.pool.resource_slice_count for slice_ in after.values()} == {len(names)}
    (generation,) = {slice_.spec.pool.generation for slice_ in after.values()}
    assert generation >= max([slice_.spec.pool.generation for slice_ in observed.values()], default=1)
    assert writes(after, desired, generation) == []


@given(st.integers(1, 253))
def test_another_name_is_as_long_as_a_name_may_be_and_still_one(length: int) -> None:
    name = ("node.example-" * 20)[:length].strip(".-")
    made = other_name(name, "1a2b3c4d")
    assert len(made) <= 253
    assert made.endswith("-1a2b3c4d")
    assert ".-" not in made
    assert made != name
