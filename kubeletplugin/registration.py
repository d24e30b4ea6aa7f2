"""Makes the driver known to the kubelet: the socket that its plugin watcher finds in the registry."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc

from kubeletplugin.proto import pluginregistration_pb2 as pb
from kubeletplugin.proto import pluginregistration_pb2_grpc as rpc

log = logging.getLogger(__name__)


class Registration(rpc.RegistrationServicer):
    """Answers the plugin watcher.

    Attributes:
        registered: set while the kubelet has taken the driver.
    """

    def __init__(self, driver_name: str, endpoint: Path, versions: Sequence[str]) -> None:
        """`versions` are service names, best first: the kubelet takes the first that it knows."""
        self._info = pb.PluginInfo(
            type="DRAPlugin", name=driver_name, endpoint=str(endpoint), supported_versions=versions
        )
        self.registered = threading.Event()

    def GetInfo(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.PluginInfo:  # noqa: N802
        """Who we are; the kubelet waits 1 s."""
        return self._info

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: pb.RegistrationStatus, context: grpc.ServicerContext
    ) -> pb.RegistrationStatusResponse:
        """What became of it; after a failure the kubelet tries again by itself."""
        if request.plugin_registered:
            log.info("registered with the kubelet")
            self.registered.set()
        else:
            log.error("the kubelet did not register the driver: %s", request.error)
            self.registered.clear()
        return pb.RegistrationStatusResponse()
