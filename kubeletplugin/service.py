"""The kubelet's DRA services, v1 and v1beta1: messages in, messages out; what happens is the preparer's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from driver.errors import TandemError
from kubeletplugin.preparer import ClaimRef, Preparer
from kubeletplugin.proto import (
    dra_v1_pb2,
    dra_v1_pb2_grpc,
    dra_v1beta1_pb2,
    dra_v1beta1_pb2_grpc,
)

log = logging.getLogger(__name__)

VERSIONS: Final = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
"""Best first, as the kubelet wants them at registration."""


class DraService:
    """Both methods of both versions, whose messages differ only in `share_id`.

    The claims of a call are worked on at once: one that waits for its device must not hold up the others.
    """

    def __init__(self, preparer: Preparer, workers: ThreadPoolExecutor, messages: Any) -> None:
        """`messages`: the version's generated module."""
        self._preparer = preparer
        self._workers = workers
        self._messages = messages
        self._has_share_id = "share_id" in messages.Device.DESCRIPTOR.fields_by_name

    def NodePrepareResources(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Every claim asked for gets an answer of its own."""
        response = self._messages.NodePrepareResourcesResponse()
        for uid, answer in self._each(request.claims, self._prepare):
            response.claims[uid].CopyFrom(answer)
        return response

    def NodeUnprepareResources(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Every claim asked for gets an answer of its own."""
        response = self._messages.NodeUnprepareResourcesResponse()
        for uid, answer in self._each(request.claims, self._unprepare):
            response.claims[uid].CopyFrom(answer)
        return response

    def _each(self, claims: Iterable[Any], work: Callable[[ClaimRef], Any]) -> Iterable[tuple[str, Any]]:
        refs = [ClaimRef(namespace=claim.namespace, name=claim.name, uid=claim.uid) for claim in claims]
        if len(refs) <= 1:
            return [(ref.uid, work(ref)) for ref in refs]
        return zip([ref.uid for ref in refs], self._workers.map(work, refs), strict=True)

    def _prepare(self, ref: ClaimRef) -> Any:
        answer = self._messages.NodePrepareResourceResponse()
        try:
            devices = self._preparer.prepare(ref)
        except Exception as error:
            answer.error = _message("prepare", ref, error)
            return answer
        for device in devices:
            fields: dict[str, Any] = {
                "request_names": [device.request],
                "pool_name": device.pool,
                "device_name": device.device,
                "cdi_device_ids": device.cdi_ids,
            }
            if self._has_share_id and device.share_id is not None:
                fields["share_id"] = device.share_id
            answer.devices.add(**fields)
        return answer

    def _unprepare(self, ref: ClaimRef) -> Any:
        answer = self._messages.NodeUnprepareResourceResponse()
        try:
            self._preparer.unprepare(ref)
        except Exception as error:
            answer.error = _message("unprepare", ref, error)
        return answer


def add_to(server: grpc.Server, preparer: Preparer, workers: ThreadPoolExecutor) -> None:
    """Serve both versions."""
    v1: Any = DraService(preparer, workers, dra_v1_pb2)
    v1beta1: Any = DraService(preparer, workers, dra_v1beta1_pb2)
    dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(v1, server)
    dra_v1beta1_pb2_grpc.add_DRAPluginServicer_to_server(v1beta1, server)


def _message(what: str, ref: ClaimRef, error: Exception) -> str:
    if isinstance(error, (TandemError, OSError)):
        log.warning("%s claim %s (%s): %s", what, ref.title, ref.uid, error)
    else:
        log.exception("%s claim %s (%s) failed unexpectedly", what, ref.title, ref.uid)
    return str(error) or repr(error)
