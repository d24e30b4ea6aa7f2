"""The manifests and what they set in motion speak the same words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.main import parser
from controller.networks import Network
from deploy.image.build import IMAGE
from deploy.image.content import ROOT
from driver.config import Alignment, decode_user
from driver.kube.fabric import FabricNetwork, FabricNetworkSpec
from driver.mock.machine import known
from driver.names import CLAIM_FINALIZER, CONTROLLER_TAINT, DRIVER_NAME
from kubeletplugin import settings

BASE = ROOT / "deploy" / "base"
COMPONENTS = ROOT / "deploy" / "components"
MOCK = ROOT / "deploy" / "overlays" / "mock"
EXAMPLES = sorted((ROOT / "deviceclasses" / "examples").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def workload(name: str) -> dict[str, Any]:
    (found,) = documents(BASE / f"{name}.yaml")
    pod: dict[str, Any] = found["spec"]["template"]["spec"]
    return pod


def arguments(name: str) -> list[str]:
    """As they are with the mock overlay."""
    patches = documents(MOCK / "kustomization.yaml")[0]["patches"]
    added = [
        step["value"]
        for patch in patches
        if patch["target"]["name"] == f"tandem-{name}"
        for step in yaml.safe_load(patch["patch"])
    ]
    return [*workload(name)["containers"][0]["args"], *added]


def test_the_controller_takes_its_arguments() -> None:
    command, *options = arguments("controller")
    assert command == "controller"
    parsed = parser().parse_args(options)
    assert parsed.leader_elect
    assert parsed.fabric_cidr is not None
    (port,) = workload("controller")["containers"][0]["ports"]
    assert parsed.http_port == port["containerPort"]


@pytest.mark.parametrize("name", ["controller", "kubelet-plugin"])
def test_nothing_is_restarted_since_the_api_server_is_away(name: str) -> None:
    (container,) = workload(name)["containers"]
    asked = {probe: str(container[probe]) for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    of_readiness = [probe for probe, words in asked.items() if "readyz" in words or "--ready" in words]
    assert of_readiness == ["readinessProbe"]


def test_the_kubelet_plugin_takes_its_arguments_and_has_its_directories() -> None:
    command, *options = arguments("kubelet-plugin")
    assert command == "kubelet-plugin"
    parsed = settings.parse(options, {})
    assert parsed.mock_machine in known()
    container = workload("kubelet-plugin")["containers"][0]
    mounted = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    wanted = {
        parsed.state_dir,
        parsed.run_dir,
        parsed.registry_dir,
        parsed.pods_dir,
        parsed.cdi_dir,
        parsed.cni_bin_dir,
        parsed.cni_conf_dir,
        parsed.dev_root,
        parsed.plugins_dir / parsed.driver_name,
    }
    assert wanted <= mounted


def test_every_mount_has_its_volume_at_the_same_path_of_the_host() -> None:
    pod = workload("kubelet-plugin")
    host = [(volume["name"], volume["hostPath"]["path"]) for volume in pod["volumes"]]
    mounts = [(mount["name"], mount["mountPath"]) for mount in pod["containers"][0]["volumeMounts"]]
    assert sorted(mounts) == sorted(host)
    assert len(set(mounts)) == len(mounts)


def test_the_lease_that_the_controller_may_write_is_the_one_it_takes() -> None:
    rules = [rule for item in documents(BASE / "controller-rbac.yaml") for rule in item.get("rules", [])]
    named = [name for rule in rules for name in rule.get("resourceNames", [])]
    assert named == [parser().parse_args([]).lease_name]


def test_the_plugin_may_report_devices_of_its_own_driver_alone() -> None:
    rules = [rule for item in documents(BASE / "kubelet-plugin-rbac.yaml") for rule in item.get("rules", [])]
    (rule,) = [rule for rule in rules if "resourceclaims/driver" in rule["resources"]]
    assert rule["resourceNames"] == [DRIVER_NAME]
    assert all(verb.startswith("associated-node:") for verb in rule["verbs"])


def rights(*files: Path) -> set[tuple[str, str, str, str]]:
    """(namespace or `*`, group, resource, verb) of each."""
    return {
        (item["metadata"].get("namespace", "*"), group, resource, verb)
        for item in (item for file in files for item in documents(file))
        for rule in item.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_plugin_has_no_right_that_its_threat_model_does_not_name() -> None:
    dra = "resource.k8s.io"
    assert rights(BASE / "kubelet-plugin-rbac.yaml", BASE / "node-events-rbac.yaml") == {
        *(("*", dra, "resourceslices", v) for v in ("get", "list", "watch", "create", "update", "delete")),
        ("*", dra, "resourceclaims", "get"),
        ("*", dra, "resourceclaims/status", "patch"),
        ("*", dra, "resourceclaims/driver", "associated-node:patch"),
        *(("default", "events.k8s.io", "events", verb) for verb in ("create", "patch")),
    }


@pytest.mark.parametrize(
    ("file", "group", "resource", "verb"),
    [
        (COMPONENTS / "lost-ledger" / "rbac.yaml", "resource.k8s.io", "resourceclaims", "list"),
        (COMPONENTS / "node-labels" / "rbac.yaml", "", "nodes", "get"),
        (MOCK / "rbac.yaml", "", "pods", "get"),
    ],
    ids=["lost-ledger", "node-labels", "mock"],
)
def test_what_only_some_installations_need_is_one_right_of_its_own(
    file: Path, group: str, resource: str, verb: str
) -> None:
    assert rights(file) == {("*", group, resource, verb)}
    (subject,) = [s for item in documents(file) for s in item.get("subjects", [])]
    assert subject["name"] == workload("kubelet-plugin")["serviceAccountName"]


def test_the_component_for_a_lost_ledger_gives_the_option_that_needs_its_right() -> None:
    (component,) = documents(COMPONENTS / "lost-ledger" / "kustomization.yaml")
    (patch,) = component["patches"]
    (step,) = yaml.safe_load(patch["patch"])
    assert patch["target"]["name"] == "tandem-kubelet-plugin"
    assert settings.parse([step["value"]], {}).rebuild_ledger


def test_nobody_has_rights_to_everything() -> None:
    for path in (ROOT / "deploy").rglob("*rbac.yaml"):
        for rule in (rule for item in documents(path) for rule in item.get("rules", [])):
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


def test_the_image_is_the_one_that_is_built() -> None:
    (image,) = documents(BASE / "kustomization.yaml")[0]["images"]
    assert f"{image['newName']}:{image['newTag']}" == IMAGE
    used = {workload(name)["containers"][0]["image"] for name in ("controller", "kubelet-plugin")}
    assert used == {image["name"]}


def test_the_admission_policies_speak_of_our_taint_and_our_service_account() -> None:
    text = (BASE / "admission.yaml").read_text()
    assert f'"{CONTROLLER_TAINT}"' in text
    (account,) = set(re.findall(r'"system:serviceaccount:([^"]+)"', text))
    assert account == f"tandem-system:{workload('kubelet-plugin')['serviceAccountName']}"
    assert f'["{CLAIM_FINALIZER}"]' in text
    assert text.count(f'endsWith(".{DRIVER_NAME}")') == 3


@pytest.mark.parametrize("name", ["admission", "networks-admission"])
def test_a_policy_that_refuses_sees_every_request_in_the_one_version_that_it_is_written_for(
    name: str,
) -> None:
    policies = [
        item for item in documents(BASE / f"{name}.yaml") if item["kind"] == "ValidatingAdmissionPolicy"
    ]
    assert policies
    for policy in policies:
        match = policy["spec"]["matchConstraints"]
        assert match["matchPolicy"] == "Equivalent"
        assert [rule["apiVersions"] for rule in match["resourceRules"]] == [["v1"]]


def test_the_networks_that_are_shown_are_right_and_fields_are_those_of_the_definition() -> None:
    (definition,) = documents(BASE / "fabricnetworks.yaml")
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(schema["properties"]) == {
        field.encode_name for field in msgspec.structs.fields(FabricNetworkSpec)
    }
    shown = re.findall(r"```yaml\n(apiVersion.*?)```", (ROOT / "docs" / "networks.md").read_text(), re.DOTALL)
    networks = [item for text in shown for item in yaml.safe_load_all(text)]
    assert [item["metadata"]["name"] for item in networks] == ["training", "routed", "storage"]
    for item in networks:
        assert set(item["spec"]) <= set(schema["properties"])
        Network.of(msgspec.convert(item, FabricNetwork))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_ask_for_classes_that_there_are_in_words_that_we_read(path: Path) -> None:
    classes = {
        item["metadata"]["name"]
        for file in (ROOT / "deviceclasses").glob("*.yaml")
        for item in documents(file)
        if item["kind"] == "DeviceClass"
    }
    for template in documents(path):
        devices = template["spec"]["spec"]["devices"]
        names = {request["name"] for request in devices["requests"]}
        assert {request["exactly"]["deviceClassName"] for request in devices["requests"]} <= classes
        for config in devices.get("config", []):
            assert set(config["requests"]) <= names
            asked = decode_user(config["opaque"]["parameters"])
            if isinstance(asked, Alignment) and asked.pairs is not None:
                assert {asked.pairs.gpus, asked.pairs.nics} <= names
