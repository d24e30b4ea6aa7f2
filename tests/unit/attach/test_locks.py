from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kubeletplugin.attach.locks import KeyedLocks, PodLocks


@pytest.fixture(params=["threads", "processes"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> KeyedLocks | PodLocks:
    return KeyedLocks() if request.param == "threads" else PodLocks(tmp_path / "run" / "lock")


def test_one_key_waits_and_another_does_not(locks: KeyedLocks | PodLocks) -> None:
    entered = threading.Event()

    def enter() -> None:
        with locks.hold("a"):
            entered.set()

    with locks.hold("a"):
        thread = threading.Thread(target=enter)
        thread.start()
        with locks.hold("b"):
            assert not entered.wait(0.05)
    assert entered.wait(30)
    thread.join()


def test_a_lock_is_free_after_an_error(locks: KeyedLocks | PodLocks) -> None:
    with pytest.raises(ZeroDivisionError), locks.hold("a"):
        _ = 1 // 0
    with locks.hold("a"):
        pass


def test_keyed_locks_leave_nothing_behind() -> None:
    locks = KeyedLocks()
    with locks.hold("a"), locks.hold("b"):
        pass
    assert locks._entries == {}


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import pathlib, sys, time; from kubeletplugin.attach.locks import PodLocks\n"
        f"with PodLocks(pathlib.Path({str(path)!r})).hold('a'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter() -> None:
            with PodLocks(path).hold("a"):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.05)
        holder.kill()
        assert entered.wait(30)
        thread.join()
