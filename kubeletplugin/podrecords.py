"""Files from which the host shim knows, with the plugin away, which pods must not start without it.

``<pod UID>``: the pod has a prepared NIC claim. ``.shared-<claim UID>``: a NIC claim is prepared that
pods could join of which no Prepare tells us. The shim only looks whether they exist.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

SHARED_PREFIX = ".shared-"


def names(pod_uids: Set[str], joinable_claim_uids: Set[str]) -> frozenset[str]:
    """The files that must be there."""
    return frozenset(pod_uids) | {f"{SHARED_PREFIX}{uid}" for uid in joinable_claim_uids}


class PodRecords:
    """The directory of records, on a file system that a reboot empties."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sync(self, wanted: Set[str]) -> None:
        """Make the directory hold exactly these names.

        Raises:
            OSError: the directory cannot be written.
        """
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        present = {file.name for file in self._directory.iterdir()}
        for name in wanted - present:
            (self._directory / name).touch()
        for name in present - wanted:
            (self._directory / name).unlink(missing_ok=True)
