from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.devices import Gpu, Inventory, Nic, Place, RdmaDevice, Tier, Vf
from driver.errors import ConfigError
from driver.overlay import Overlay, Slots, apply
from driver.overlay_files import parse
from driver.topology import tier

HEAD = "apiVersion: tandem-dra.io/v1beta1\nkind: Topology\n"


def a_vm() -> Inventory:
    """Two GPUs and two NICs (the second with a VF), each on a root of its own, as hypervisors show them."""
    places = {n: Place(None, None, f"pci000{n}:00", n % 2) for n in range(1, 5)}
    return Inventory(
        "VM",
        gpus=tuple(Gpu(f"000{n}:00:00.0", places[n]) for n in (1, 2)),
        nics=tuple(
            Nic(
                f"000{n}:00:00.0",
                f"mlx5_{n - 3}",
                places[n],
                rdma=RdmaDevice(f"mlx5_{n - 3}"),
                vfs=(Vf("0004:00:00.1", 0, places[n]),) if n == 4 else (),
            )
            for n in (3, 4)
        ),
    )


def a_server() -> Inventory:
    """A GPU and a NIC on one physical switch, and another GPU elsewhere."""
    near, far = (
        Place("0000:16:00.0", "0000:15:01.0", "pci0000:15", 0),
        Place(None, "0000:30:01.0", "pci0000:30", 0),
    )
    return Inventory(
        "server",
        gpus=(Gpu("0000:18:00.0", near), Gpu("0000:31:00.0", far)),
        nics=(Nic("0000:19:00.0", "mlx5_0", near, rdma=RdmaDevice("mlx5_0")),),
    )


def xml(body: str) -> Overlay:
    return parse(f'<system version="1">\n{body}\n</system>'.encode(), source="topo.xml")


def yaml(body: str) -> Overlay:
    return parse((HEAD + body).encode(), source="topo.yaml")


SYNTHETIC_XML = """<cpu numaid="0">
<pci busid="ffff:ff:01.0" class="0x060400"><pci busid="0001:00:00.0"/><pci busid="0004:00:00.0"/></pci>
<pci busid="ffff:ff:02.0" class="0x060400"><pci busid="0002:00:00.0"/><pci busid="0003:00:00.0"/></pci>
</cpu>"""
SYNTHETIC_YAML = """switches:
- {name: "ffff:ff:01.0", numaNode: 0, devices: [0001:00:00.0, 0004:00:00.0]}
- {name: "ffff:ff:02.0", numaNode: 0, devices: ["0002:00:00.0", "0003:00:00.0"]}
"""


def tiers(inventory: Inventory) -> list[list[str]]:
    return [[tier(gpu.place, nic.place).name for nic in inventory.nics] for gpu in inventory.gpus]


@pytest.mark.parametrize("overlay", [xml(SYNTHETIC_XML), yaml(SYNTHETIC_YAML)], ids=["xml", "yaml"])
def test_synthetic_bridges_make_pairs_numa_nodes_and_rails(overlay: Overlay) -> None:
    assert tiers(a_vm()) == [["NODE", "SYS"], ["SYS", "NODE"]]
    found = apply(a_vm(), overlay)
    assert tiers(found) == [["NODE", "PIX"], ["PIX", "NODE"]]
    assert [gpu.rail for gpu in found.gpus] == [0, 1]
    assert [nic.rail for nic in found.nics] == [1, 0]


def test_pairs_of_a_synthetic_bridge_share_every_attribute_down_from_the_root() -> None:
    found = apply(a_vm(), xml(SYNTHETIC_XML))
    gpu, nic = found.gpus[0], found.nics[1]
    assert gpu.place == nic.place == Place("ffff:ff:01.0", "ffff:ff:01.0", "pci0001:00", 0)


def test_vfs_go_with_their_pf() -> None:
    found = apply(a_vm(), xml(SYNTHETIC_XML))
    assert found.nics[1].vfs[0].place == found.nics[1].place
    assert found.nics[1].vfs[0].rail == 0


DUMP_WITH_VFS = """<cpu numaid="0"><pci busid="0000:16:00.0" class="0x060400">
<pci busid="0000:1b:00.0" class="0x030200"><gpu dev="0"/></pci>
<pci busid="0000:18:00.0" class="0x020000"><nic><net name="mlx5_0"/></nic></pci>
<pci busid="0000:18:00.1" class="0x020000"><nic><net name="mlx5_12"/></nic></pci></pci></cpu>"""


def a_host_with_vfs() -> Inventory:
    """A GPU, and a NIC with two VFs, on one switch."""
    near = Place("0000:16:00.0", "0000:15:01.0", "pci0000:15", 0)
    vfs = tuple(Vf(f"0000:18:00.{n}", n - 1, near, rdma=RdmaDevice(f"mlx5_{n + 11}")) for n in (1, 2))
    nic = Nic("0000:18:00.0", "mlx5_0", near, rdma=RdmaDevice("mlx5_0"), vfs=vfs)
    return Inventory("host", gpus=(Gpu("0000:1b:00.0", near),), nics=(nic,))


def test_a_dump_that_lists_vfs_beside_their_pfs_changes_nothing() -> None:
    found = apply(a_host_with_vfs(), xml(DUMP_WITH_VFS))
    assert [vf.place for vf in found.nics[0].vfs] == [found.nics[0].place] * 2
    assert found.nics[0].place == a_host_with_vfs().nics[0].place
    assert tiers(found) == [["PIX"]]


@pytest.mark.parametrize(
    "overlay",
    [
        yaml("switches: [{numaNode: 1, devices: [0001:00:00.0, 0004:00:00.1]}]\nrails: {0004:00:00.1: 5}\n"),
        yaml("dataDirect: [{nic: 0004:00:00.1, gpu: 0001:00:00.0}]\nrails: {0004:00:00.1: 5}\n"),
    ],
    ids=["switches", "data direct"],
)
def test_what_is_said_of_a_vf_is_said_of_its_pf(overlay: Overlay) -> None:
    found = apply(a_vm(), overlay)
    nic = found.nics[1]
    assert nic.place == found.gpus[0].place
    assert (nic.rail, nic.vfs[0].rail, nic.vfs[0].place) == (5, 5, nic.place)


def test_data_direct_of_a_vf_by_its_rdma_device_is_its_pfs() -> None:
    overlay = xml(
        """<cpu><pci busid="0000:16:00.0" class="0x060400"><pci busid="0000:1b:00.0" class="0x030200"/>
<pci busid="0000:18:00.0" class="0x020700"><nic><net name="mlx5_0"/></nic></pci></pci></cpu>
<cpu numaid="0"><pci busid="ffff:01:00.0" class="0x060400">
<pci busid="ffff:02:00.0" class="0x020700"><nic><net name="mlx5_12_dma"/></nic></pci>
<pci busid="ffff:03:00.0" class="0x020700"><nic><net name="mlx5_0_dma"/></nic></pci></pci></cpu>"""
    )
    assert apply(a_host_with_vfs(), overlay).nics[0].place.pcie_switch == "ffff:01:00.0"


def test_a_vf_that_no_driver_has_counts_as_its_pf_too() -> None:
    whole = a_host_with_vfs()
    bare = replace(whole, nics=(replace(whole.nics[0], vfs=()),))
    slots = Slots(vfs={"0000:18:00.1": "0000:18:00.0"})
    assert tiers(apply(bare, xml(DUMP_WITH_VFS), slots=slots)) == [["PIX"]]


def test_a_vf_apart_from_its_pf_is_refused_with_both_lines() -> None:
    apart = xml(
        """<cpu><pci busid="ffff:ff:01.0"><pci busid="0004:00:00.0"/></pci>
<pci busid="ffff:ff:02.0"><pci busid="0004:00:00.1"/></pci></cpu>"""
    )
    says = r"topo\.xml:3: 0004:00:00\.1 is the same NIC as 0004:00:00\.0 \(line 2\), and is put elsewhere"
    with pytest.raises(ConfigError, match=says):
        apply(a_vm(), apart)


def test_nested_switches_are_pxb_below_one_top() -> None:
    found = apply(
        a_vm(),
        yaml(
            """switches:
- devices: [0001:00:00.0]
  switches:
  - devices: [0003:00:00.0]
  - devices: [0002:00:00.0, 0004:00:00.0]
"""
        ),
    )
    assert tiers(found) == [["PXB", "PXB"], ["PXB", "PIX"]]


def test_data_direct_puts_the_nic_beside_its_gpu() -> None:
    found = apply(a_vm(), yaml("dataDirect:\n- {nic: 0003:00:00.0, gpu: 0002:00:00.0}\n"))
    assert found.nics[0].place == found.gpus[1].place
    assert found.nics[1].place == a_vm().nics[1].place


def test_the_second_device_that_nccl_makes_of_a_nic_is_its_data_direct_function() -> None:
    found = apply(
        a_vm(),
        xml(
            """<cpu numaid="1"><pci busid="0002:05:00.0" class="0x060400">
<pci busid="0002:00:00.0" class="0x030200"><gpu dev="1"/></pci>
<pci busid="0002:03:00.0" class="0x020700"><nic><net name="mlx5_0_dma" dev="0"/></nic></pci></pci>
<pci busid="0003:00:00.0" class="0x020700"><nic><net name="mlx5_0" dev="1"/></nic></pci></cpu>"""
        ),
    )
    assert tier(found.gpus[1].place, found.nics[0].place) is Tier.PIX


def test_a_dump_of_the_machine_itself_changes_nothing() -> None:
    dump = xml(
        """<cpu numaid="0"><pci busid="0000:16:00.0" class="0x060400" link_width="16">
<pci busid="0000:18:00.0" class="0x030200"><gpu dev="0"><nvlink target="0000:a0:00.0"/></gpu></pci>
<pci busid="0000:19:00.0" class="0x020700"><nic><net name="mlx5_0"/></nic></pci>
<pci busid="0000:1a:00.0" class="0x010802"/></pci>
<pci busid="0000:31:00.0" class="0x030200"/><pci busid="0000:a0:00.0" class="0x068000"/></cpu>"""
    )
    found = apply(a_server(), dump)
    assert [d.place for d in found.gpus] == [d.place for d in a_server().gpus]
    assert found.nics[0].place == a_server().nics[0].place


def test_a_partial_file_that_names_a_physical_switch_keeps_the_rest_of_it_near() -> None:
    found = apply(a_server(), xml('<cpu><pci busid="0000:16:00.0"><pci busid="0000:19:00.0"/></pci></cpu>'))
    assert tiers(found) == [["PIX"], ["NODE"]]
    assert found.gpus[0].place == found.nics[0].place


def test_given_rails_win() -> None:
    found = apply(a_vm(), yaml("rails: {0003:00:00.0: 7, 0001:00:00.0: 5}\n"))
    assert found.nics[0].rail == 7
    assert found.gpus[0].rail == 5


@pytest.mark.parametrize(
    ("overlay", "line", "says"),
    [
        ('<cpu>\n<pci busid="0009:00:00.0" class="0x030200"/></cpu>', 3, "0009:00:00.0 is no GPU or NIC"),
        ('<cpu>\n<pci busid="0000:18:00.0"/>\n<pci busid="0000:19:00.0"/></cpu>', 3, "0000:16:00.0"),
        (
            '<cpu><pci busid="ffff:ff:01.0"><pci busid="0000:18:00.0"/></pci>\n'
            '<pci busid="ffff:ff:02.0"><pci busid="0000:19:00.0"/></pci></cpu>',
            2,
            "both are on the switch 0000:16:00.0",
        ),
        (
            '<cpu><pci busid="ffff:ff:01.0"><pci busid="0000:18:00.0"/></pci></cpu>',
            2,
            "apart from 0000:19:00.0",
        ),
    ],
)
def test_what_contradicts_the_machine_is_refused_with_its_line(overlay: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(a_server(), xml(overlay))
    assert str(caught.value).startswith(f"topo.xml:{line}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'<system>\n<cpu>\n<pci busid="1b:00"/></cpu></system>', "topo:3: busid: '1b:00' is no PCI address"),
        (b"<system>\n<pci/></system>", "topo:2: <pci> has no busid"),
        (b'<system>\n<cpu numaid="x"/></system>', 'topo:2: numaid="x" is no number'),
        (b"<graphs/>", "topo:1: begins with <graphs>"),
        (b"<system>\n<cpu></system>", "topo:2: is no XML"),
        (
            b'<!DOCTYPE system [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>\n<system>&b;</system>',
            "topo:1: has a document type",
        ),
        (
            b'<system><cpu><pci busid="0000:01:00.0"/>\n<pci busid="0000:01:00.0"/></cpu></system>',
            "topo:2: 0000:01:00.0 is listed twice (before in line 1)",
        ),
        (
            b'<system><cpu><pci busid="0000:01:00.0"><pci busid="0000:02:00.0"/></pci>\n'
            b'<pci busid="0000:01:00.0"><pci busid="0000:03:00.0"/></pci></cpu></system>',
            "topo:2: switch 0000:01:00.0 is listed twice (before in line 1)",
        ),
        (b"<system>" + b'<pci busid="0000:01:00.0">' * 70, "nested more than"),
        (b"kind: Topology\n", "topo:1: apiVersion is ''"),
        (HEAD.encode() + b"switches: 3\n", "topo:3: is no list"),
        (HEAD.encode() + b"swiches: []\n", "topo:3: unknown field swiches"),
        (HEAD.encode() + b"switches:\n- devices: [abc]\n", "topo:4: 'abc' is no PCI address"),
        (HEAD.encode() + b"switches:\n- {numaNode: -1}\n", "topo:4: '-1' is no number"),
        (
            HEAD.encode() + b"rails:\n  0000:01:00.0: 1\n  0000:01:00.0: 2\n",
            "topo:5: 0000:01:00.0 is listed twice",
        ),
        (HEAD.encode() + b"dataDirect:\n- {nic: 0000:01:00.0}\n", "topo:4: names nic and gpu"),
        (HEAD.encode() + b"a: [\n", "topo:"),
        (b"a: &a [*a]\n", "has aliases"),
        (b"\xff\xfe", "is no YAML"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(raw: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw, source="topo")
    assert says in str(caught.value)


def test_data_direct_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0001:00:00\.0 is a GPU"):
        apply(a_vm(), yaml("dataDirect:\n- {nic: 0001:00:00.0, gpu: 0002:00:00.0}\n"))


def test_a_device_that_died_is_passed_over_but_another_machines_file_is_not() -> None:
    whole, overlay = a_vm(), xml(SYNTHETIC_XML)
    broken = Inventory("VM", gpus=whole.gpus[1:], nics=whole.nics)
    assert tiers(apply(broken, overlay, strict=False)) == [["PIX", "NODE"]]
    with pytest.raises(ConfigError, match=r"topo\.xml:3: 0001:00:00\.0"):
        apply(broken, overlay)
    with pytest.raises(ConfigError):
        apply(a_server(), overlay, strict=False)


def test_a_device_that_is_known_but_not_published_keeps_its_part_of_the_rails() -> None:
    whole = a_vm()
    slots = Slots({gpu.pci_address: gpu.place for gpu in whole.gpus}, {})
    found = apply(Inventory("VM", gpus=whole.gpus[1:], nics=whole.nics), xml(SYNTHETIC_XML), slots=slots)
    assert [gpu.rail for gpu in found.gpus] == [1]
    assert [nic.rail for nic in found.nics] == [1, 0]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(
            st.sampled_from([SYNTHETIC_XML, SYNTHETIC_YAML]), st.integers(0, 120), st.binary(max_size=4)
        ).map(
            lambda parts: (HEAD + parts[0]).encode()[: parts[1]] + parts[2] + parts[0].encode()[parts[1] :]
        ),
    )
)
def test_garbage_is_refused_and_never_crashes(raw: bytes) -> None:
    with contextlib.suppress(ConfigError):
        apply(a_vm(), parse(raw, source="topo"))
