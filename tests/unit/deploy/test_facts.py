"""What the demo holds Tandem to: each way of not being as promised is found."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec

from deploy.demo.facts import (
    SECTION,
    Inside,
    NodeState,
    Pair,
    apart,
    complaints,
    devices,
    differences,
    pairs_of,
    pings,
    shared_devices,
)
from driver.kube.objects import Pod, ResourceClaim, ResourceSlice

PAIR = Pair("pod-a", "node-0", "gpu-1", "vf-1", "PIX", 0, "net1", ("10.200.0.1/24",))
INSIDE = Inside(
    {"NCCL_IB_HCA": "=mlx5_40:1"},
    {"eth0": ("10.0.0.2/24",), "net1": ("10.200.0.1/24",)},
    ("/dev/infiniband/uverbs40", "/dev/nvidia0"),
)


def placed_claim(source: str) -> ResourceClaim:
    placement = {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Placement",
        "pairs": [{"gpu": "gpu-1", "nic": "vf-1", "tier": "PIX", "rail": 0}],
        "interfaces": [{"device": "vf-1", "interface": "net1", "addresses": ["10.200.0.1/24"], "rail": 0}],
    }
    config = [{"source": source, "opaque": {"driver": "tandem-dra.io", "parameters": placement}}]
    claim = {"status": {"allocation": {"devices": {"config": config}}}}
    return msgspec.json.decode(json.dumps(claim), type=ResourceClaim)


def slice_of(node: str, names: list[str], taint: str) -> ResourceSlice:
    taints = [{"key": taint, "effect": "NoSchedule"}]
    spec = {
        "driver": "tandem-dra.io",
        "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": name, "taints": taints} for name in names],
    }
    return msgspec.json.decode(json.dumps({"spec": spec}), type=ResourceSlice)


def test_inside_parses_environment_addresses_and_devices() -> None:
    text = "\n".join(
        [
            "NCCL_IB_HCA==mlx5_40:1,mlx5_41:1",
            SECTION,
            "1: lo    inet 127.0.0.1/8 scope host lo",
            "7: net1    inet 10.200.0.1/24 brd 10.200.0.255 scope global net1",
            "7: net1    inet 10.200.0.9/24 scope global secondary net1",
            SECTION,
            "/dev/nvidia0",
            "/dev/infiniband/uverbs40",
            "",
        ]
    )
    seen = Inside.parse(text)
    assert seen.rdma_devices == ("mlx5_40", "mlx5_41")
    assert seen.interfaces == {"lo": ("127.0.0.1/8",), "net1": ("10.200.0.1/24", "10.200.0.9/24")}
    assert seen.devices == ("/dev/infiniband/uverbs40", "/dev/nvidia0")


def test_pairs_are_those_that_the_controller_wrote() -> None:
    pod = msgspec.json.decode(b'{"metadata":{"name":"pod-a"},"spec":{"nodeName":"node-0"}}', type=Pod)
    assert pairs_of(pod, placed_claim("FromClass")) == [PAIR]


def test_pairs_that_a_user_wrote_are_not_believed() -> None:
    assert pairs_of(msgspec.json.decode(b"{}", type=Pod), placed_claim("FromClaim")) == []


def test_nothing_to_complain_of_when_all_is_as_promised() -> None:
    assert list(complaints("pod-a", [PAIR], 1, INSIDE)) == []


def test_complains_of_a_worse_tier() -> None:
    assert list(complaints("pod-a", [replace(PAIR, tier="NODE")], 1, INSIDE)) == [
        "pod-a: gpu-1 and vf-1 are NODE, not PIX"
    ]


def test_complains_of_an_interface_without_its_address() -> None:
    without = replace(INSIDE, interfaces={})
    assert list(complaints("pod-a", [PAIR], 1, without)) == ["pod-a: net1 has no address, not 10.200.0.1/24"]


def test_complains_of_devices_that_nobody_asked_for() -> None:
    more = replace(INSIDE, devices=(*INSIDE.devices, "/dev/nvidia1"))
    assert list(complaints("pod-a", [PAIR], 1, more)) == [
        "pod-a: the container sees 2 GPU device nodes, not 1"
    ]


def test_complains_of_missing_pairs() -> None:
    assert "pod-a: 0 pairs, 1 were asked for" in list(complaints("pod-a", [], 1, INSIDE))


def test_a_device_is_shared_only_on_one_node() -> None:
    other = replace(PAIR, pod="pod-b", nic="vf-2")
    assert shared_devices([PAIR, replace(other, node="node-1")]) == []
    assert shared_devices([PAIR, other]) == ["gpu-1 on node-0"]


def test_pings_cross_nodes_on_common_rails_alone() -> None:
    there = replace(PAIR, pod="pod-b", node="node-1", addresses=("10.200.0.2/24",))
    lonely = replace(PAIR, pod="pod-b", node="node-1", rail=5)
    neighbour = replace(PAIR, pod="pod-c", rail=0)
    found = pings([PAIR, neighbour, there, lonely])
    assert [(ping.source, ping.target, ping.address, ping.rail) for ping in found] == [
        ("pod-a", "pod-b", "10.200.0.2", 0)
    ]


def test_devices_with_another_taint_do_not_count_as_free() -> None:
    free = slice_of("node-0", ["gpu-1", "vf-1", "vf-2"], "tandem-dra.io/controller")
    held = slice_of("node-0", ["vf-3"], "tandem-dra.io/held")
    assert devices([free, held]) == {"node-0 gpu": 1, "node-0 vf": 2}


def test_differences_name_what_is_lost_and_what_is_left() -> None:
    before = NodeState(frozenset({"eth0", "vf1"}), {"claims": 0}, ())
    after = NodeState(frozenset({"eth0", "stray"}), {"claims": 1}, ("/run/tandem/pods/x",))
    assert list(differences("node-0", before, after)) == [
        "node-0: interface vf1 did not come back",
        "node-0: interface stray is left behind",
        "node-0: the ledger holds 1 rows of claims",
        "node-0: /run/tandem/pods/x is left behind",
    ]
    assert list(differences("node-0", before, before)) == []


def test_a_gang_on_different_rails_is_found() -> None:
    here, there = replace(PAIR, rail=0), replace(PAIR, pod="pod-b", rail=1)
    gang = ("pod-a", "pod-b")
    assert list(apart([here, there], gang)) == ["pod-b: rails 1, but pod-a has 0"]
    assert list(apart([here, replace(there, rail=0)], gang)) == []
