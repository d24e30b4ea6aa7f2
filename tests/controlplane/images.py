"""The test pods' image, made from the machine's static busybox without a registry: an OCI image archive, the
same bytes each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.controlplane.errors import PrerequisiteError
from tests.controlplane.packages import static_busybox

BUSYBOX = "docker.io/tandem/busybox:1"
PAUSE = "docker.io/tandem/pause:1"

# Waits for ever, yet ends at once when asked to, and reaps what it inherits: the first process of a pod must
# do all three.
WAIT = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive: a directory if it has neither content nor target, a symbolic link if it has a
    target.
    """

    path: str
    content: bytes | None = None
    target: str = ""
    mode: int = 0o755


def archive(entries: Iterable[Entry]) -> bytes:
    """An uncompressed tar of `entries`, owned by root, without times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode = entry.mode
            if entry.target:
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
            elif entry.content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(entry.content or b"")
            tar.addfile(info, io.BytesIO(entry.content or b""))
    return buffer.getvalue()


def oci_archive(names: Sequence[str], layer: bytes, command: Sequence[str], architecture: str) -> bytes:
    """An OCI image layout (image-spec 1.0) as a tar: one image of one layer, under each of `names`."""
    blobs: list[Entry] = []

    def blob(media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs.append(Entry(f"blobs/sha256/{digest}", content, mode=0o644))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layer_descriptor = blob(_LAYER, layer)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
        "history": [{"created_by": "tandem"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": blob(_CONFIG, json.dumps(config).encode()),
        "layers": [layer_descriptor],
    }
    descriptor = blob(_MANIFEST, json.dumps(manifest).encode())
    named = [{**descriptor, "annotations": {"io.containerd.image.name": name}} for name in names]
    index = {"schemaVersion": 2, "manifests": named}
    return archive(
        [
            Entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', mode=0o644),
            Entry("index.json", json.dumps(index).encode(), mode=0o644),
            *blobs,
        ]
    )


def busybox_layer(busybox: bytes, applets: Iterable[str]) -> bytes:
    """A root file system of busybox and a link for each applet."""
    folders = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var", "var/run")
    return archive(
        [
            *(Entry(folder, mode=0o1777 if folder == "tmp" else 0o755) for folder in folders),
            Entry("bin/busybox", busybox),
            *(
                Entry(f"bin/{applet}", target="busybox", mode=0o777)
                for applet in applets
                if applet != "busybox"
            ),
        ]
    )


def write_test_images(path: Path) -> Path:
    """Writes the archive with the images BUSYBOX and PAUSE to `path`. Raises PrerequisiteError without a
    static busybox.
    """
    busybox = static_busybox()
    if busybox is None:
        raise PrerequisiteError(
            "the test pods' image needs a static busybox (Debian: apt-get install busybox-static)"
        )
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    layer = busybox_layer(busybox.read_bytes(), listed.stdout.split())
    machine = platform.machine()
    path.write_bytes(oci_archive((BUSYBOX, PAUSE), layer, WAIT, _ARCHITECTURES.get(machine, machine)))
    return path
