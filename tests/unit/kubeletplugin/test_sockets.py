from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from driver.errors import ConfigError
from kubeletplugin.sockets import FileLock, SocketPaths, remove_dead, socket_paths

DRIVER = "tandem-dra.io"
UID = "0b9c9e6e-1111-2222-3333-444455556666"


def made(root: Path, uid: str) -> SocketPaths:
    (root / "registry").mkdir(exist_ok=True)
    return socket_paths(root, root / "registry", DRIVER, uid)


def test_a_pods_sockets_carry_its_uid_and_a_plain_processes_do_not() -> None:
    kubelet = Path("/var/lib/kubelet")
    paths = socket_paths(kubelet / "plugins", kubelet / "plugins_registry", DRIVER, UID)
    assert str(paths.dra) == f"/var/lib/kubelet/plugins/tandem-dra.io/dra-{UID}.sock"
    assert str(paths.registration) == f"/var/lib/kubelet/plugins_registry/tandem-dra.io-{UID}-reg.sock"
    assert socket_paths(kubelet, kubelet, DRIVER, "").dra.name == "dra.sock"


def test_a_path_that_the_kernel_would_not_take_is_refused_with_its_length() -> None:
    with pytest.raises(ConfigError, match=r"has 1[0-9]{2} bytes, the kernel allows 107"):
        socket_paths(
            Path("/var/lib/kubelet/plugins"), Path("/r"), "a-very-long-name.of.a-driver.example.com", UID
        )


def test_a_lock_is_one_processs_until_that_ends(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "sub" / "lock")
    script = (
        "import sys; from pathlib import Path; from kubeletplugin.sockets import FileLock\n"
        "print(FileLock(Path(sys.argv[1])).acquire())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "sub" / "lock")]
    assert lock.acquire()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    lock.release()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
    assert lock.acquire()
    lock.release()


def test_a_lock_whose_file_its_last_owner_removed_is_taken_on_the_new_file(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release(remove=True)
    assert second.acquire()
    assert (tmp_path / "lock").exists()
    second.release()


def test_sockets_of_the_dead_go_those_of_the_living_stay(tmp_path: Path) -> None:
    mine, living, dead = (made(tmp_path, uid) for uid in ("mine", "living", "dead"))
    locks = [FileLock(paths.lock) for paths in (mine, living)]
    assert all(lock.acquire() for lock in locks)
    dead.lock.touch()
    for paths in (mine, living, dead):
        for socket in (paths.dra, paths.registration, paths.health):
            socket.touch()
    remove_dead(mine, DRIVER)
    assert not any(path.exists() for path in (dead.dra, dead.registration, dead.health, dead.lock))
    assert all(path.exists() for path in (living.dra, living.registration, mine.dra, mine.registration))
    for lock in locks:
        lock.release()
