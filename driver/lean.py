"""Keeps daemons small: the parts of two large packages that we use, without what their ``__init__`` adds.

`pyroute2` brings its databases and firewalls along, `kubernetes` its models (pydantic) and watchers: 15 MB of
resident memory on every node, for nothing. Where a package is not laid out as known here, it is imported
whole, as usual.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


def import_lean() -> None:
    """Import both packages' parts. To be called before anything else imports them; later it does nothing."""
    for package, load in (("pyroute2", _pyroute2), ("kubernetes", _kubernetes)):
        if package not in sys.modules:
            _try(package, load)


def _pyroute2() -> None:
    package = _bare("pyroute2")
    linux = importlib.import_module("pyroute2.iproute.linux")
    for name in ("IPRoute", "IPBatch"):
        setattr(package, name, getattr(linux, name))
    importlib.import_module("pyroute2.netlink.exceptions")


def _kubernetes() -> None:
    _bare("kubernetes")
    client = _bare("kubernetes.client")
    configuration = importlib.import_module("kubernetes.client.configuration")
    client.Configuration = configuration.Configuration  # type: ignore[attr-defined]
    client.ApiClient = object  # type: ignore[attr-defined]  # named by the loader of kubeconfigs, not used by us
    importlib.import_module("kubernetes.client.rest")
    importlib.import_module("kubernetes.config")


def _bare(name: str) -> ModuleType:
    """A package whose submodules can be imported, but whose ``__init__`` does not run."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"no package {name}")
    module = ModuleType(name)
    module.__spec__ = spec
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _try(package: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (ImportError, AttributeError):
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
