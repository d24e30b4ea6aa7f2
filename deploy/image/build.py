"""Builds the image with buildah: no Docker daemon, no registry; an archive that `ctr` and `kind` load.

Three layers, each remade only when what it holds has changed: base, dependencies, our code. All that is
kept lies in one folder of the user's cache, buildah's own storage included; removing it costs a cold build
(some 25 s) and nothing else. `fresh` makes the base anew, which is how Debian's security updates get in.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.image import content, debian

IMAGE: Final = "docker.io/tandem/tandem-dra:dev"
CONTAINERFILE: Final = Path(__file__).with_name("Containerfile")
_BASE: Final = "localhost/tandem/base"
_RUNTIME: Final = "localhost/tandem/runtime"


class ImageError(Exception):
    """buildah is missing, or said no."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/tandem/image."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem" / "image"


def build_image(base: str = "", mirror: str = "", fresh: bool = False, folder: Path | None = None) -> Path:
    """The image `IMAGE` of the checkout as it is now, as an OCI archive; built only as far as something
    changed.

    Args:
        base: image to begin from; empty: a base is made with mmdebstrap.
        mirror: Debian mirror for mmdebstrap; empty: Debian's own.
        fresh: make every layer anew.
        folder: where everything is kept; default `cache_folder()`.

    Raises:
        ImageError: buildah is missing or failed.
        debian.BaseError: the base cannot be made.
        cni.build.BuildError: the CNI shim cannot be compiled.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _sole_builder(folder):
        return _Build(folder, base, mirror).run(fresh)


class _Build:
    def __init__(self, folder: Path, base: str, mirror: str) -> None:
        self.folder, self.base, self.mirror = folder, base, mirror
        self.archive = folder / "tandem-dra.tar"
        self.storage = folder / "storage"
        self.distributions = content.closure(content.requirements())
        self.files = content.code_files()
        containerfile = CONTAINERFILE.read_text()
        base_recipe = base or debian.recipe()
        dependencies = content.dependencies_digest(self.distributions)
        self.runtime_stamp = content.digest(containerfile, base_recipe, dependencies)
        self.image_stamp = content.digest(self.runtime_stamp, content.code_digest(self.files))

    def run(self, fresh: bool) -> Path:
        if not fresh and self._stamp("image") == self.image_stamp and self.archive.exists():
            return self.archive
        if fresh or self._stamp("runtime") != self.runtime_stamp:
            shutil.rmtree(self.storage, ignore_errors=True)
            self._make_runtime()
            (self.folder / "runtime").write_text(self.runtime_stamp)
        self._make_image()
        (self.folder / "image").write_text(self.image_stamp)
        return self.archive

    def _stamp(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def _make_runtime(self) -> None:
        (self.folder / "runtime").unlink(missing_ok=True)
        base = self.base
        if not base:
            with self._step("base of Debian packages") as root:
                debian.make_root(root / "base", self.mirror)
                container = self._buildah("from", "scratch").strip()
                self._buildah("add", "--quiet", container, f"{root}/base/", "/")
                self._buildah("commit", "--quiet", "--rm", container, _BASE)
                base = _BASE
        with self._step("dependencies from the virtual environment") as root:
            content.write_dependencies(self.distributions, root)
            self._add_layer(base, root, _RUNTIME)

    def _make_image(self) -> None:
        (self.folder / "image").unlink(missing_ok=True)
        with self._step("code") as root:
            content.write_code(self.files, root)
            self._add_layer(_RUNTIME, root, IMAGE)
            self._buildah("push", "--quiet", IMAGE, f"oci-archive:{root}/image.tar:{IMAGE}")
            (root / "image.tar").replace(self.archive)

    def _add_layer(self, base: str, files: Path, name: str) -> None:
        before = self._ids(name)
        options = ["--quiet", "--layers=false", f"--file={CONTAINERFILE}", f"--build-arg=BASE={base}"]
        self._buildah("build", *options, f"--tag={name}", str(files))
        for replaced in before - self._ids(name):
            self._buildah("rmi", replaced)

    def _ids(self, name: str) -> set[str]:
        return set(
            self._buildah("images", "--all", "--quiet", "--no-trunc", "--filter", f"reference={name}").split()
        )

    def _buildah(self, *arguments: str) -> str:
        where = [
            f"--root={self.storage}",
            f"--runroot={self.storage}/run",
            f"--storage-driver={self._driver()}",
        ]
        return _run("buildah", *where, *arguments)

    def _driver(self) -> str:
        """Overlays where the file system takes them; vfs, which copies whole layers, anywhere."""
        chosen = self.storage / "driver"
        if not chosen.exists():
            self.storage.mkdir()
            trial = self.storage / "trial"
            overlay = ["--storage-driver=overlay", f"--root={trial}", f"--runroot={trial}/run"]
            try:
                _run("buildah", *overlay, "rm", _run("buildah", *overlay, "from", "scratch").strip())
                driver = "overlay"
            except ImageError:
                driver = "vfs"
            shutil.rmtree(trial, ignore_errors=True)
            chosen.write_text(driver)
        return chosen.read_text()

    @contextmanager
    def _step(self, what: str) -> Iterator[Path]:
        """An empty folder for the time of one step, and a line that says how long it took."""
        begin = time.monotonic()
        root = self.folder / "step"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        print(f"image: {what} …", file=sys.stderr, flush=True)
        yield root
        print(f"image: {what}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
        shutil.rmtree(root)


@contextmanager
def _sole_builder(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> str:
    environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        raise ImageError(f"{command[0]} is missing: apt-get install {command[0]}") from None
    if done.returncode:
        raise ImageError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout
