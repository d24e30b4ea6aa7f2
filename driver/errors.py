"""The one exception tree, so that every caller can tell what may pass by itself from what never will.

A `RetryableError` is worth trying again with nothing changed (the API server is away, a device is still
held); a `PermanentError` is not, until somebody edits something. Errors carry their data as attributes; the
message names the object, the field, the value and what would be right.
"""

from __future__ import annotations


class TandemError(Exception):
    """Base of all errors that Tandem raises on purpose."""


class RetryableError(TandemError):
    """The same call may succeed later, unchanged."""


class PermanentError(TandemError):
    """The same call will fail again until its input or the machine changes."""


class ConfigError(PermanentError):
    """An opaque configuration, a setting or a data file is wrong.

    Attributes:
        path: where in the document, for example ``pairs.gpus``; empty for the whole document.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class InvalidObjectError(PermanentError):
    """An object that the API server would refuse.

    Attributes:
        object: kind, namespace and name, for example ``ResourceClaim default/train``.
        field: path in the object; empty for the whole of it.
        value: what stands there.
    """

    def __init__(self, message: str, *, object: str, field: str = "", value: object = None) -> None:
        super().__init__(f"{object}: {message}")
        self.object = object
        self.field = field
        self.value = value


class ProbeError(TandemError):
    """A source of hardware facts cannot be read at all (one bad device is logged, not raised)."""


class KubeError(TandemError):
    """The API server refused a call.

    Attributes:
        status: HTTP status code, 0 where no answer came.
        reason: Kubernetes' machine-readable reason, for example ``Conflict``; may be empty.
    """

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class KubeUnavailableError(KubeError, RetryableError):
    """No answer, a timeout, 429 or 5xx: try again with back-off."""


class KubeConflictError(KubeError, RetryableError):
    """409: somebody else wrote first; read again, then decide again."""


class KubeGoneError(KubeError, RetryableError):
    """410: the resource version is too old; list again."""


class KubeNotFoundError(KubeError, PermanentError):
    """404: the object is not there."""


class KubeUnreadableError(KubeError, RetryableError):
    """An object has another form than we know.

    Attributes:
        namespace: of the object; empty where it is cluster-scoped.
        name: of the object.
        version: its resourceVersion.
        gone: the API server said that it was deleted.
    """

    def __init__(self, message: str, *, namespace: str, name: str, version: str, gone: bool = False) -> None:
        title = f"{namespace}/{name}".lstrip("/") or "an object without a name"
        super().__init__(f"{title} cannot be read: {message}", status=200)
        self.namespace = namespace
        self.name = name
        self.version = version
        self.gone = gone


class KubeRefusedError(KubeError, PermanentError):
    """Another 4xx: the request is wrong or not allowed."""
