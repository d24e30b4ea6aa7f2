"""What each component is told: command lines and configuration files, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from tests.controlplane.addresses import Addresses
from tests.controlplane.build import Programs
from tests.controlplane.images import PAUSE
from tests.controlplane.pki import Certificate

CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
API_SERVER = "kube-apiserver"
ETCD = "etcd"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
# Where a node sees its own folder of the state directory.
NODE_FOLDER = Path("/run/node")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ from one cluster to the next."""

    feature_gates: Mapping[str, bool] = field(default_factory=dict)  # for every component
    runtime_config: Sequence[str] = ()  # of the API server: `resource.k8s.io/v1beta2=true`
    kubelet: Mapping[str, object] = field(default_factory=dict)  # fields of KubeletConfiguration
    arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)  # component → more of its flags

    def gates(self) -> list[str]:
        """The gates as a command-line flag, if there are any."""
        named = ",".join(f"{name}={str(on).lower()}" for name, on in sorted(self.feature_gates.items()))
        return [f"--feature-gates={named}"] if named else []

    def more(self, component: str) -> list[str]:
        """Additional flags of a component; they come last, so they win."""
        return list(self.arguments.get(component, ()))


def etcd(programs: Programs, data: Path, options: Options) -> list[str]:
    """A single member that trusts the machine not to lose power: nothing is worth a disk flush here."""
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        str(programs[ETCD]),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        f"--quota-backend-bytes={8 * 1024**3}",
        *options.more(ETCD),
    ]


def api_server(
    programs: Programs,
    addresses: Addresses,
    certificate_authority: Path,
    token_key: Path,
    server: Certificate,
    kubelet_client: Certificate,
    options: Options,
) -> list[str]:
    """Node and RBAC authorization, as on a production cluster; kubelets are verified too."""
    runtime = [f"--runtime-config={','.join(options.runtime_config)}"] if options.runtime_config else []
    return [
        str(programs[API_SERVER]),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={addresses.api_server}",
        "--secure-port=6443",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
        f"--client-ca-file={certificate_authority}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={addresses.services}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={token_key}",
        f"--service-account-signing-key-file={token_key}",
        f"--kubelet-certificate-authority={certificate_authority}",
        f"--kubelet-client-certificate={kubelet_client.certificate}",
        f"--kubelet-client-key={kubelet_client.key}",
        # Else logs and exec look node names up in DNS, which knows nothing of them.
        "--kubelet-preferred-address-types=InternalIP",
        *runtime,
        *options.gates(),
        *options.more(API_SERVER),
    ]


def controller_manager(
    programs: Programs, kubeconfig: Path, certificate_authority: Path, token_key: Path, options: Options
) -> list[str]:
    """With rate limits high enough that they never are what a bench measures."""
    return [
        str(programs[CONTROLLER_MANAGER]),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={token_key}",
        f"--root-ca-file={certificate_authority}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        *options.gates(),
        *options.more(CONTROLLER_MANAGER),
    ]


def scheduler(programs: Programs, kubeconfig: Path, options: Options) -> list[str]:
    """The stock scheduler with its stock profile."""
    return [
        str(programs[SCHEDULER]),
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=5000",
        "--kube-api-burst=5000",
        *options.gates(),
        *options.more(SCHEDULER),
    ]


def kubelet(programs: Programs, name: str, address: str, options: Options) -> list[str]:
    """The kubelet's command line; the rest is in its configuration file."""
    return [
        str(programs["kubelet"]),
        f"--kubeconfig={NODE_FOLDER / 'kubelet.kubeconfig'}",
        f"--config={NODE_FOLDER / 'kubelet.json'}",
        f"--hostname-override={name}",
        f"--node-ip={address}",
        *options.more("kubelet"),
    ]


def kubelet_configuration(cgroup: str, options: Options) -> str:
    """KubeletConfiguration, as JSON. Thresholds are low: the node shares its disk and memory with the
    machine.
    """
    configuration: dict[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(NODE_FOLDER / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(NODE_FOLDER / "kubelet.crt"),
        "tlsPrivateKeyFile": str(NODE_FOLDER / "kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "oomScoreAdj": 0,
        "maxPods": 250,
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
    }
    if options.feature_gates:
        configuration["featureGates"] = dict(options.feature_gates)
    return json.dumps(configuration | dict(options.kubelet), indent=1)


def kube_proxy(programs: Programs, name: str, addresses: Addresses, options: Options) -> list[str]:
    """Services by nftables; the machine's own conntrack limits are left as they are."""
    return [
        str(programs["kube-proxy"]),
        f"--kubeconfig={NODE_FOLDER / 'kube-proxy.kubeconfig'}",
        f"--hostname-override={name}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={addresses.pods}",
        "--oom-score-adj=0",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        *options.gates(),
        *options.more("kube-proxy"),
    ]


def containerd_configuration(runc: Path) -> str:
    """containerd as it comes (CDI on, usual paths), with our pause image.

    `restrict_oom_score_adj`: a machine without CAP_SYS_RESOURCE cannot make anything less likely to be
    killed, and containerd would fail every pod over it.
    """
    return f"""version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"""


def pod_network(name: str, pods: IPv4Network) -> str:
    """The node's default network as a CNI configuration list: a veth pair per pod, routed."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": str(pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}, "backend": "nftables"},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins}, indent=1)
