"""Every guard in every version of resource.k8s.io that the API server can serve, found by asking it.

A test never spells an object in another version than v1: it writes an innocent one in v1, reads it in the
version at hand, and makes that one guilty. So a version that comes with a later Kubernetes is tried as well.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from driver.errors import KubeRefusedError
from driver.kube.client import KubeClient
from driver.names import CLAIM_FINALIZER, CONTROLLER_TAINT, DRIVER_NAME, pool_name
from kubeletplugin.identity import node_uid
from tests.cluster.accounts import kubeconfig_of
from tests.cluster.tandem import ROOT, SYSTEM
from tests.controlplane import Cluster, wait_for
from tests.controlplane.api import ApiError
from tests.controlplane.config import Options
from tests.controlplane.errors import CommandError
from tests.unit.controller.things import slices_of

BASE = ROOT / "deploy" / "base"
GROUP = "/apis/resource.k8s.io"
VICTIM, TAKEN_OVER = "guards-0", "guards-1"
REPAIR = {"key": "example.com/repair", "operator": "Exists", "effect": "NoSchedule"}
OURS = {"key": CONTROLLER_TAINT, "operator": "Exists", "effect": "NoSchedule"}
EVERY = {"operator": "Exists"}
NETWORK = {"apiVersion": "tandem-dra.io/v1beta1", "kind": "Attachment", "network": "strangers"}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane that serves all versions that it has, with two Node objects and our policies."""
    with Cluster.start(nodes=0, options=Options(runtime_config=["api/all=true"])) as made:
        made.add_fake_nodes(2, prefix="guards", capacity={"cpu": "8"})
        for name in ("namespace", "fabricnetworks"):
            made.apply((BASE / f"{name}.yaml").read_text())
        made.kubectl("wait", "--for=condition=Established", "crd/fabricnetworks.tandem-dra.io")
        for name in ("admission", "networks-admission"):
            made.apply((BASE / f"{name}.yaml").read_text())
        made.kubectl("apply", f"--namespace={SYSTEM}", f"--filename={BASE / 'kubelet-plugin-rbac.yaml'}")
        made.apply((BASE / "node-events-rbac.yaml").read_text())
        made.apply(
            json.dumps(
                {
                    "apiVersion": "tandem-dra.io/v1beta1",
                    "kind": "FabricNetwork",
                    "metadata": {"name": "strangers"},
                    "spec": {"namespaces": {"names": ["strangers"]}},
                }
            )
        )
        wait_for("the policies to be asked", lambda: _asked(made))
        yield made


def _asked(cluster: Cluster) -> bool:
    path = f"{GROUP}/v1/namespaces/default/resourceclaims?dryRun=All"
    guilty = [
        turned(claim("ResourceClaim", exactly()), REPAIR, OURS),
        turned(claim("ResourceClaim", exactly()), NETWORK, {**NETWORK, "network": "strangers"}),
    ]
    guilty[1]["spec"]["devices"]["config"] = [attachment("strangers")]
    for one in guilty:
        try:
            cluster.api.post(path, one)
        except ApiError:
            continue
        return False
    try:
        made = cluster.api.post(path, claim("ResourceClaim", exactly()))
    except ApiError:
        return False
    return bool(made["metadata"].get("finalizers"))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Nothing in it runs."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def versions(cluster: Cluster, resource: str) -> list[str]:
    """All that serve the resource."""
    served = [entry["version"] for entry in cluster.api.get(GROUP)["versions"]]
    return [
        version
        for version in served
        if resource in {entry["name"] for entry in cluster.api.get(f"{GROUP}/{version}")["resources"]}
    ]


def exactly() -> Json:
    return {
        "name": "gpu",
        "exactly": {"deviceClassName": "gpu.tandem-dra.io", "tolerations": [REPAIR]},
    }


def first_available() -> Json:
    plain = {"name": "plain", "deviceClassName": "gpu.tandem-dra.io"}
    return {"name": "gpu", "firstAvailable": [plain, {**plain, "name": "other", "tolerations": [REPAIR]}]}


def attachment(network: str) -> Json:
    return {"opaque": {"driver": DRIVER_NAME, "parameters": {**NETWORK, "network": network}}}


def claim(kind: str, request: Json) -> Json:
    spec: Json = {"devices": {"requests": [request], "config": [attachment("nobodys")]}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "innocent"},
        "spec": {"spec": spec} if kind == "ResourceClaimTemplate" else spec,
    }


def turned(item: Any, part: Mapping[str, Any], into: Mapping[str, Any]) -> Any:
    """The object with each part that is equal to `part` replaced, wherever it stands."""
    if item == part:
        return dict(into)
    if isinstance(item, dict):
        return {name: turned(value, part, into) for name, value in item.items()}
    return [turned(value, part, into) for value in item] if isinstance(item, list) else item


def fresh(item: Json, name: str) -> Json:
    """As somebody would write it who makes it anew."""
    made = copy.deepcopy(item)
    made["metadata"] = {"name": name}
    made.pop("status", None)
    return made


RESOURCES = {"ResourceClaim": "resourceclaims", "ResourceClaimTemplate": "resourceclaimtemplates"}
claims = pytest.mark.parametrize("kind", RESOURCES)
requests = pytest.mark.parametrize(
    "request_", [exactly(), first_available()], ids=["exactly", "firstAvailable"]
)
tolerations = pytest.mark.parametrize("toleration", [OURS, EVERY], ids=["ours", "every"])


@claims
@requests
def test_no_version_takes_a_claim_that_tolerates_our_taint(
    cluster: Cluster, namespace: str, kind: str, request_: Json
) -> None:
    made = f"namespaces/{namespace}/{RESOURCES[kind]}"
    cluster.api.post(f"{GROUP}/v1/{made}", claim(kind, request_))
    tried = versions(cluster, RESOURCES[kind])
    assert len(tried) > 1, "else nothing is shown"
    for version in tried:
        innocent = cluster.api.get(f"{GROUP}/{version}/{made}/innocent")
        assert turned(innocent, REPAIR, OURS) != innocent, "what is to be turned is there"
        for toleration in (OURS, EVERY):
            guilty = fresh(turned(innocent, REPAIR, toleration), "guilty")
            for refused in writes(cluster, version, made, guilty):
                assert "may not tolerate the device taint" in refused, (version, toleration)
        cluster.api.post(f"{GROUP}/{version}/{made}", fresh(innocent, f"other-{version}"))


def writes(cluster: Cluster, version: str, path: str, item: Json) -> Iterator[str]:
    """The ways to make it; what the API server says of each."""
    collection = f"{GROUP}/{version}/{path}"
    yield refusal(cluster.api.post, collection, item)
    generated = item | {"metadata": {"generateName": "guilty-"}}
    yield refusal(cluster.api.post, collection, generated)
    one = f"{collection}/{item['metadata']['name']}?fieldManager=tenant"
    yield refusal(cluster.api.request, "PATCH", one, item, "application/apply-patch+yaml")


def refusal(act: Callable[..., object], *arguments: object, **more: object) -> str:
    """What is said against it; empty where it is done."""
    try:
        act(*arguments, **more)
    except (ApiError, CommandError) as error:
        return str(error)
    return ""


@claims
@requests
def test_no_version_lets_a_claim_come_to_tolerate_it_later(
    cluster: Cluster, namespace: str, kind: str, request_: Json
) -> None:
    made = f"namespaces/{namespace}/{RESOURCES[kind]}"
    cluster.api.post(f"{GROUP}/v1/{made}", claim(kind, request_))
    for version in versions(cluster, RESOURCES[kind]):
        path = f"{GROUP}/{version}/{made}/innocent"
        guilty = turned(cluster.api.get(path), REPAIR, OURS)
        merged = {"spec": guilty["spec"]}
        changes: list[tuple[str, str, object, str]] = [
            ("PUT", path, guilty, "application/json"),
            ("PATCH", path, merged, "application/merge-patch+json"),
            ("PATCH", path, [{"op": "replace", "path": "/spec", "value": guilty["spec"]}],
             "application/json-patch+json"),
            ("PATCH", f"{path}?fieldManager=tenant&force=true", fresh(guilty, "innocent"),
             "application/apply-patch+yaml"),
        ]  # fmt: skip
        for method, at, body, content_type in changes:
            said = refusal(cluster.api.request, method, at, body, content_type)
            assert "immutable" in said, (version, method, content_type)
        assert cluster.api.get(path)["spec"] == turned(guilty, OURS, REPAIR)["spec"]


def test_no_version_takes_admin_access_as_an_excuse(cluster: Cluster, namespace: str) -> None:
    """It is the namespace's label that gives it, which is an administrator's to set."""
    path = f"namespaces/{namespace}/resourceclaims"
    cluster.kubectl("label", "namespace", namespace, "resource.kubernetes.io/admin-access=true")
    request = exactly()
    request["exactly"] |= {"adminAccess": True, "tolerations": [EVERY]}
    cluster.api.post(f"{GROUP}/v1/{path}", claim("ResourceClaim", request))
    shown = {v: cluster.api.get(f"{GROUP}/{v}/{path}/innocent") for v in versions(cluster, "resourceclaims")}
    cluster.kubectl("label", "namespace", namespace, "resource.kubernetes.io/admin-access-")
    for version, innocent in shown.items():
        said = refusal(cluster.api.post, f"{GROUP}/{version}/{path}", fresh(innocent, "spy"))
        assert "admin access to devices requires" in said, version


def test_a_claim_of_before_the_policy_can_still_go(cluster: Cluster, namespace: str) -> None:
    binding = cluster.kubectl(
        "get", "validatingadmissionpolicybinding", "claims.tandem-dra.io", "--output=json"
    )
    guilty = turned(claim("ResourceClaim", exactly()), REPAIR, OURS)
    path = f"{GROUP}/v1/namespaces/{namespace}/resourceclaims"
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "claims.tandem-dra.io")
    wait_for("the policy to be gone", lambda: not refusal(cluster.api.post, f"{path}?dryRun=All", guilty))
    guilty["metadata"]["finalizers"] = ["example.com/kept"]
    cluster.api.post(path, guilty)
    cluster.apply(json.dumps(fresh(json.loads(binding), "claims.tandem-dra.io")))
    again = fresh(guilty, "again")
    wait_for("the policy to be back", lambda: refusal(cluster.api.post, f"{path}?dryRun=All", again))
    cluster.kubectl(f"--namespace={namespace}", "delete", "resourceclaim", "innocent", "--wait=false")
    free = [{"op": "remove", "path": "/metadata/finalizers"}]
    cluster.api.request("PATCH", f"{path}/innocent", free, "application/json-patch+json")
    assert "404" in refusal(cluster.api.get, f"{path}/innocent")


@requests
def test_a_claim_made_in_any_version_gets_its_finalizer(
    cluster: Cluster, namespace: str, request_: Json
) -> None:
    path = f"namespaces/{namespace}/resourceclaims"
    bare = claim("ResourceClaim", request_)
    bare["spec"]["devices"]["config"] = []
    cluster.api.post(f"{GROUP}/v1/{path}", bare)
    for version in versions(cluster, "resourceclaims"):
        shown = cluster.api.get(f"{GROUP}/{version}/{path}/innocent")
        made = cluster.api.post(f"{GROUP}/{version}/{path}", fresh(shown, f"of-{version}"))
        assert made["metadata"]["finalizers"] == [CLAIM_FINALIZER], version
        assert made["spec"] == shown["spec"], version


@claims
def test_no_version_takes_a_network_of_other_namespaces(cluster: Cluster, namespace: str, kind: str) -> None:
    made = f"namespaces/{namespace}/{RESOURCES[kind]}"
    cluster.api.post(f"{GROUP}/v1/{made}", claim(kind, exactly()))
    for version in versions(cluster, RESOURCES[kind]):
        innocent = cluster.api.get(f"{GROUP}/{version}/{made}/innocent")
        theirs = turned(innocent, {**NETWORK, "network": "nobodys"}, NETWORK)
        for refused in writes(cluster, version, made, fresh(theirs, "guilty")):
            assert f"FabricNetwork strangers is not for namespace {namespace}" in refused, version


def as_plugin_of(node: str) -> tuple[str, ...]:
    extra = (f"--as-user-extra=authentication.kubernetes.io/node-name={node}",) if node else ()
    return (f"--as=system:serviceaccount:{SYSTEM}:tandem-kubelet-plugin", *extra)


def as_kubelet_of(node: str) -> tuple[str, ...]:
    return (f"--as=system:node:{node}", "--as-group=system:nodes", "--as-group=system:authenticated")


ADMIN: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def published(cluster: Cluster) -> Mapping[str, Json]:
    """The other node's own slice, in each version; the victim has published nothing."""
    (item,) = slices_of(TAKEN_OVER)
    document = msgspec.to_builtins(item)
    document["metadata"] = {"name": "honest"}
    cluster.api.post(f"{GROUP}/v1/resourceslices", document)
    return {
        v: cluster.api.get(f"{GROUP}/{v}/resourceslices/honest") for v in versions(cluster, "resourceslices")
    }


def forged(item: Json, **changes: Any) -> str:
    made = fresh(item, "forged")
    pool = changes.pop("pool", {})
    made["spec"] |= changes
    made["spec"]["pool"] |= pool
    made["spec"] = {name: value for name, value in made["spec"].items() if value is not None}
    return json.dumps(made)


NAMED = {"key": "metadata.name", "operator": "In", "values": [VICTIM]}
SELECTED: Json = {"nodeSelectorTerms": [{"matchFields": [NAMED]}]}
VICTIMS: Json = {"name": pool_name(DRIVER_NAME, VICTIM)}
SLICES: list[Any] = [
    pytest.param(who, changes, says, id=f"{id_} by the {name}")
    for id_, changes in {
        "another's pool": {"pool": VICTIMS},
        "another's pool, a newer generation": {"pool": VICTIMS | {"generation": 99}},
        "another's pool, more slices": {"pool": VICTIMS | {"resourceSliceCount": 9}},
        "a pool of no node": {"pool": {"name": "shared"}},
    }.items()
    for name, who, says in (
        ("plugin", as_plugin_of(TAKEN_OVER), "its name is tandem-dra.io/ and the node's"),
        ("kubelet", as_kubelet_of(TAKEN_OVER), "its name is tandem-dra.io/ and the node's"),
        ("administrator", ADMIN, "its name is tandem-dra.io/ and the node's"),
    )
] + [
    pytest.param(as_plugin_of(TAKEN_OVER), {"pool": VICTIMS, "nodeName": VICTIM},
                 "may not write a slice of node", id="another's slice by the plugin"),
    pytest.param(as_plugin_of(""), {}, "may not write a slice of node", id="by a plugin of no node"),
    pytest.param(as_plugin_of(TAKEN_OVER), {"driver": "gpu.example.com"}, "may not write a slice of driver",
                 id="another driver's by the plugin"),
    pytest.param(as_kubelet_of(TAKEN_OVER), {"pool": VICTIMS, "nodeName": VICTIM}, "same NodeName",
                 id="another's slice by the kubelet"),
    pytest.param(ADMIN, {"nodeName": None, "allNodes": True}, "is one node's", id="for all nodes"),
    pytest.param(as_plugin_of(TAKEN_OVER), {"nodeName": None, "allNodes": True}, "of node ''",
                 id="for all nodes by the plugin"),  # two policies refuse it; either may answer
    pytest.param(ADMIN, {"nodeName": None, "nodeSelector": SELECTED}, "is one node's", id="by a selector"),
]  # fmt: skip


@pytest.mark.parametrize(("who", "changes", "says"), SLICES)
def test_no_version_takes_a_slice_that_speaks_for_another_node(
    cluster: Cluster, published: Mapping[str, Json], who: tuple[str, ...], changes: Json, says: str
) -> None:
    for version, honest in published.items():
        text = forged(honest, **copy.deepcopy(changes))
        create = (*who, "create", "--filename=-", "--dry-run=server")
        said = refusal(cluster.kubectl, *create, stdin=text)
        assert says in said, version


@pytest.mark.parametrize(
    "who", [as_plugin_of(TAKEN_OVER), as_kubelet_of(TAKEN_OVER)], ids=["plugin", "kubelet"]
)
def test_every_version_takes_a_slice_of_the_nodes_own(
    cluster: Cluster, published: Mapping[str, Json], who: tuple[str, ...]
) -> None:
    for honest in published.values():
        cluster.kubectl(*who, "create", "--filename=-", "--dry-run=server", stdin=forged(honest))


def test_no_version_moves_a_slice_to_another_node_or_pool(
    cluster: Cluster, published: Mapping[str, Json]
) -> None:
    for version, honest in published.items():
        path = f"{GROUP}/{version}/resourceslices/honest"
        for spec in ({"nodeName": VICTIM}, {"pool": honest["spec"]["pool"] | VICTIMS}):
            said = refusal(cluster.api.request, "PATCH", path, {"spec": spec}, "application/merge-patch+json")
            assert "immutable" in said, version


PLUGIN = f"system:serviceaccount:{SYSTEM}:tandem-kubelet-plugin"


def may(cluster: Cluster, user: str, namespace: str, verb: str, resource: str) -> bool:
    """The authorizers' word; `resource` is ``group/resource``, or ``group/resource/subresource``."""
    group, name, subresource = (*resource.split("/"), "")[:3]
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name}
    attributes["subresource"] = subresource
    groups = ["system:authenticated"]
    if user == PLUGIN:
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    answer = cluster.api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


DRA = "resource.k8s.io"
EVERY_VERB = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MAY = [
    ("get", f"{DRA}/resourceclaims"),
    ("watch", f"{DRA}/resourceslices"),
    ("patch", f"{DRA}/resourceclaims/status"),
]
MAY_NOT = [
    *((verb, f"{DRA}/resourceclaims") for verb in EVERY_VERB if verb != "get"),
    *((verb, f"{DRA}/resourceclaims/{part}") for verb in EVERY_VERB for part in ("binding", "driver")),
    *(
        (verb, f"/{thing}")
        for verb in EVERY_VERB
        for thing in ("pods", "nodes", "secrets", "configmaps", "events")
    ),
    *((verb, "events.k8s.io/events") for verb in EVERY_VERB),
    ("deletecollection", f"{DRA}/resourceslices"),
    ("create", "/serviceaccounts/token"),
    ("create", "/pods/eviction"),
]


@pytest.mark.parametrize("where", ["kube-system", SYSTEM, "namespace"])
def test_a_plugins_token_may_no_more_than_it_needs(cluster: Cluster, namespace: str, where: str) -> None:
    inside = namespace if where == "namespace" else where
    assert [one for one in MAY if not may(cluster, PLUGIN, inside, *one)] == []
    assert [one for one in MAY_NOT if may(cluster, PLUGIN, inside, *one)] == []
    assert may(cluster, PLUGIN, "default", "create", "events.k8s.io/events")


def test_a_plugin_learns_its_nodes_uid_from_its_token_and_reads_no_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    bound = ("--bound-object-kind=Node", f"--bound-object-name={TAKEN_OVER}")
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig_of(cluster, SYSTEM, "tandem-kubelet-plugin", *bound))
    with closing(KubeClient.load(config, user_agent="test")) as client:
        uid = cluster.api.get(f"/api/v1/nodes/{TAKEN_OVER}")["metadata"]["uid"]
        assert node_uid(client, TAKEN_OVER) == uid
        with pytest.raises(KubeRefusedError):
            node_uid(client, VICTIM)


def test_a_tenant_writes_neither_slices_nor_classes_nor_what_was_allocated(
    cluster: Cluster, namespace: str
) -> None:
    cluster.kubectl(
        f"--namespace={namespace}", "create", "rolebinding", "m", "--clusterrole=admin", "--user=mallory"
    )

    def mallory(verb: str, resource: str) -> bool:
        return may(cluster, "mallory", namespace, verb, resource)

    assert mallory("create", f"{DRA}/resourceclaims")
    for verb in ("create", "update", "patch", "delete"):
        for resource in ("resourceslices", "deviceclasses", "devicetaintrules"):
            assert not mallory(verb, f"{DRA}/{resource}"), (verb, resource)
        assert not mallory(verb, "tandem-dra.io/fabricnetworks"), verb
        for subresource in ("status", "binding", "driver"):
            assert not mallory(verb, f"{DRA}/resourceclaims/{subresource}"), (verb, subresource)


@pytest.mark.parametrize(
    "made_of",
    [["base"], ["overlays/mock"], ["base", "components/lost-ledger", "components/node-labels"]],
    ids=str,
)
def test_the_api_server_takes_what_is_installed(cluster: Cluster, tmp_path: Path, made_of: list[str]) -> None:
    first, *components = (os.path.relpath(ROOT / "deploy" / name, tmp_path) for name in made_of)
    whole = {"resources": [first], "components": components}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(whole))
    taken = cluster.kubectl("apply", "--dry-run=server", f"--kustomize={tmp_path}", "--output=json")
    objects = json.loads(taken)["items"]
    roles = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects}
    assert ("RoleBinding", "default", "tandem-kubelet-plugin") in roles
    assert ("RoleBinding", SYSTEM, "tandem-controller") in roles
    assert ("DaemonSet", SYSTEM, "tandem-kubelet-plugin") in roles
    subjects = [subject for o in objects for subject in o.get("subjects", [])]
    assert {subject["namespace"] for subject in subjects} == {SYSTEM}
    (plugin,) = [o for o in objects if o["kind"] == "DaemonSet"]
    (container,) = plugin["spec"]["template"]["spec"]["containers"]
    assert ("--rebuild-ledger=on" in container["args"]) == ("components/lost-ledger" in made_of)
