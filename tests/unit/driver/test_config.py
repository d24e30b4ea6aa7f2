from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from driver.config import Alignment, Attachment, RequestPair, decode_user
from driver.devices import Tier
from driver.errors import ConfigError
from driver.gang import Gang


def alignment(**more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "tandem-dra.io/v1beta1",
        "kind": "Alignment",
        "pairs": {"gpus": "gpu", "nics": "nic"},
        **more,
    }


GANG_ALONE = {
    "apiVersion": "tandem-dra.io/v1beta1",
    "kind": "Alignment",
    "gang": {"size": 4, "rails": "any", "within": "topology.kubernetes.io/block", "timeoutSeconds": 60},
}


def attachment(**more: Any) -> dict[str, Any]:
    return {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment", "network": "blue", **more}


def placement(**more: Any) -> dict[str, Any]:
    return {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Placement", **more}


def test_what_is_not_said_is_any_tier_best_first() -> None:
    assert decode_user(alignment()) == Alignment(RequestPair("gpu", "nic"), (), Tier.SYS)


def test_preferences_and_the_requirement_are_taken() -> None:
    found = decode_user(alignment(prefer=["PXB", "PIX"], require="NODE"))
    assert isinstance(found, Alignment)
    assert (found.prefer, found.require) == ((Tier.PXB, Tier.PIX), Tier.NODE)


def test_json_bytes_raw_json_and_a_mapping_are_the_same() -> None:
    raw = json.dumps(alignment()).encode()
    assert decode_user(raw) == decode_user(msgspec.Raw(raw)) == decode_user(alignment())


def test_a_subrequest_may_be_paired() -> None:
    found = decode_user(alignment(pairs={"gpus": "gpu/big", "nics": "nic"}))
    assert isinstance(found, Alignment)
    assert found.pairs == RequestPair("gpu/big", "nic")


def test_a_gang_is_of_one_size_on_the_same_rails_and_says_so_in_five_minutes() -> None:
    found = decode_user(alignment(gang={"size": 16}))
    assert isinstance(found, Alignment)
    assert found.gang == Gang(size=16, same_rails=True, within="", timeout_seconds=300)
    sizeless = decode_user(alignment(gang={}))
    assert isinstance(sizeless, Alignment)
    assert sizeless.gang == Gang(size=None)


def test_a_gang_needs_no_pairs() -> None:
    gang = Gang(size=4, same_rails=False, within="topology.kubernetes.io/block", timeout_seconds=60)
    assert decode_user(GANG_ALONE) == Alignment(pairs=None, gang=gang)


def test_a_network_is_named_and_a_class_may_insist_on_it() -> None:
    assert decode_user(attachment()) == Attachment("blue")
    assert decode_user(attachment(enforce=True)) == Attachment("blue", enforce=True)


@pytest.mark.parametrize(
    ("parameters", "path", "says"),
    [
        (alignment(gang={"size": 1}), "gang.size", "right is 2"),
        (alignment(gang={"size": "16"}), "gang.size", "int"),
        (alignment(gang={"members": 16}), "gang", "members"),
        (alignment(gang={"size": 2, "rails": "all"}), "gang.rails", "all"),
        (alignment(gang={"size": 2, "within": ""}), "gang.within", "node label"),
        (alignment(gang={"size": 2, "within": "a/b/c"}), "gang.within", "node label"),
        (alignment(gang={"size": 2, "within": "Rack_/x"}), "gang.within", "node label"),
        (alignment(gang={"size": 2, "timeoutSeconds": 0}), "gang.timeoutSeconds", "right is 1"),
        ({**GANG_ALONE, "require": "PIX"}, "pairs", "about pairs"),
        ({**GANG_ALONE, "gang": None}, "pairs", "is missing"),
        (alignment(pairs={"gpus": "gpu", "nics": "nic", "nic": "x"}), "pairs", "`nic`"),
        (alignment(pairs={"gpus": "gpu"}), "pairs", "nics"),
        (alignment(pairs={"gpus": "GPU", "nics": "nic"}), "pairs.gpus", "'GPU'"),
        (alignment(pairs={"gpus": "x", "nics": "x"}), "pairs", "two requests"),
        (alignment(prefer=["PIX", "NEAR"]), "prefer[1]", "NEAR"),
        (alignment(prefer=["PIX", "PIX"]), "prefer", "at most once"),
        (alignment(prefer=[]), "prefer", "one at least"),
        (alignment(require="pix"), "require", "pix"),
        (alignment(require=0), "require", "int"),
        ({**alignment(), "kind": "Alinment"}, "kind", "'Alinment'"),
        ({**alignment(), "apiVersion": "tandem-dra.io/v1"}, "apiVersion", "v1beta1"),
        ({"kind": "Alignment"}, "apiVersion", "v1beta1"),
        (attachment(vlan=7), "", "vlan"),
        (attachment(mac="02:00:00:00:00:01"), "", "mac"),
        (attachment(network="Blue_1"), "network", "'Blue_1'"),
        ({"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment"}, "", "network"),
        (placement(), "kind", "only the controller"),
        (b"[]", "", "object"),
        (b"{", "", "no JSON"),
        (b"\xff", "", "no JSON"),
    ],
)
def test_a_mistake_is_refused_with_its_path(parameters: Any, path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode_user(parameters)
    assert caught.value.path == path
    assert says in str(caught.value)
