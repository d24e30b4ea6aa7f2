"""A real Kubernetes on one machine, put together from its own programs: for the cluster tests, the benches
and `make demo`.
"""

from tests.controlplane.cluster import RUNNING_CLUSTER, Cluster
from tests.controlplane.config import Options
from tests.controlplane.errors import ControlPlaneError
from tests.controlplane.images import BUSYBOX
from tests.controlplane.node import RAILS, Node
from tests.controlplane.processes import Process
from tests.controlplane.wait import wait_for

__all__ = [
    "BUSYBOX",
    "RAILS",
    "RUNNING_CLUSTER",
    "Cluster",
    "ControlPlaneError",
    "Node",
    "Options",
    "Process",
    "wait_for",
]
