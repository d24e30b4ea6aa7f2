"""What the definition of FabricNetworks asks of one, by the code that makes a network of it."""

from __future__ import annotations

from controller.networks import Network
from controller.validation.claims import standing_at
from controller.validation.fault import Fault, Faults
from driver.errors import ConfigError
from driver.kube.fabric import FabricNetwork


def network_faults(item: FabricNetwork, document: object) -> Faults:
    """The first fault of a FabricNetwork; `document` is the same, in dicts and lists."""
    try:
        Network.of(item)
    except ConfigError as error:
        value = standing_at(document, error.path)
        yield Fault(error.path, value, "", str(error).removeprefix(f"{error.path}: "))
