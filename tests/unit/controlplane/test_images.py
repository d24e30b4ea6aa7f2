"""The test pods' image."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from tests.controlplane.images import WAIT, busybox_layer, oci_archive

LAYER = busybox_layer(b"\x7fELF", ["busybox", "sh", "sleep"])
ARCHIVE = oci_archive(("docker.io/tandem/a:1", "docker.io/tandem/b:1"), LAYER, WAIT, "amd64")


def _files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def test_every_blob_has_the_digest_and_size_it_is_named_with() -> None:
    files = _files(ARCHIVE)
    blobs = {name: data for name, data in files.items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    assert all(name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}" for name, data in blobs.items())
    index = json.loads(files["index.json"])
    manifest_data = blobs["blobs/sha256/" + index["manifests"][0]["digest"].removeprefix("sha256:")]
    manifest = json.loads(manifest_data)
    for descriptor, media in (
        (manifest["config"], "config.v1+json"),
        (manifest["layers"][0], "layer.v1.tar"),
    ):
        assert (
            len(blobs["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]) == descriptor["size"]
        )
        assert descriptor["mediaType"].endswith(media)


def test_one_image_goes_by_both_names() -> None:
    manifests = json.loads(_files(ARCHIVE)["index.json"])["manifests"]
    names = [entry["annotations"]["io.containerd.image.name"] for entry in manifests]
    assert names == ["docker.io/tandem/a:1", "docker.io/tandem/b:1"]
    assert len({entry["digest"] for entry in manifests}) == 1


def test_the_same_input_gives_the_same_bytes() -> None:
    again = oci_archive(("docker.io/tandem/a:1", "docker.io/tandem/b:1"), LAYER, WAIT, "amd64")
    assert again == ARCHIVE


def test_the_layer_links_every_applet_to_busybox() -> None:
    with tarfile.open(fileobj=io.BytesIO(LAYER)) as tar:
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("tmp").mode == 0o1777
        assert len([name for name in tar.getnames() if name.startswith("bin/")]) == 3
