"""The compiled shim, run as a container runtime runs it, against the real server and with nobody there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.build import BuildError, build
from kubeletplugin.attach.protocol import CniCall, Reply
from kubeletplugin.attach.results import CniError, Code
from kubeletplugin.attach.server import CniServer

UID = "0b9c9e6e-1111-2222-3333-444455556666"
PREVIOUS = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5/24"}]}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("shim") / "tandem")


class Host:
    """One host's paths, and the shim on it."""

    def __init__(self, shim: Path, root: Path) -> None:
        self.shim, self.root = shim, root
        self.socket, self.records = root / "cni.sock", root / "pods"

    def config(self, **more: Any) -> dict[str, Any]:
        paths = {"socket": str(self.socket), "podRecords": str(self.records)}
        return {"cniVersion": "1.1.0", "type": "tandem", "prevResult": PREVIOUS} | paths | more

    def run(
        self, command: str, config: dict[str, Any] | bytes | None = None, **env: str
    ) -> tuple[int, bytes]:
        stdin = config if isinstance(config, bytes) else json.dumps(config or self.config()).encode()
        args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=team;K8S_POD_NAME=a;K8S_POD_UID={UID}"
        variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": "s1", "CNI_IFNAME": "eth0", "CNI_ARGS": args}
        done = subprocess.run(
            [self.shim], input=stdin, env=variables | env, capture_output=True, check=False, timeout=60
        )
        assert done.stderr == b""
        return done.returncode, done.stdout

    def error(self, command: str, config: dict[str, Any] | bytes | None = None, **env: str) -> dict[str, Any]:
        code, stdout = self.run(command, config, **env)
        assert code == 1
        error: dict[str, Any] = json.loads(stdout)
        assert error.keys() == {"cniVersion", "code", "msg", "details"}
        return error

    def record(self, name: str) -> None:
        self.records.mkdir(exist_ok=True)
        (self.records / name).touch()


@pytest.fixture
def host(shim: Path, tmp_path: Path) -> Host:
    return Host(shim, tmp_path)


class Plugin:
    """What the server's handler saw, and what it shall answer."""

    def __init__(self) -> None:
        self.calls: list[tuple[CniCall, int | None]] = []
        self.reply: Reply | Exception = Reply(0, b"answer")

    def __call__(self, call: CniCall, netns: int | None) -> Reply:
        self.calls.append((call, os.fstat(netns).st_ino if netns is not None else None))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@pytest.fixture
def plugin(host: Host) -> Iterator[Plugin]:
    plugin = Plugin()
    server = CniServer(host.socket, plugin)
    server.start()
    yield plugin
    server.stop()


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_every_command_reaches_the_plugin_and_its_answer_is_printed(
    host: Host, plugin: Plugin, command: str
) -> None:
    assert host.run(command) == (0, b"answer")
    ((call, netns),) = plugin.calls
    assert call == CniCall(
        command=command,
        container_id="s1",
        ifname="eth0",
        args={
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": "team",
            "K8S_POD_NAME": "a",
            "K8S_POD_UID": UID,
        },
        config=host.config(),
    )
    assert netns is None


def test_the_namespace_travels_as_a_descriptor(host: Host, plugin: Plugin) -> None:
    host.run("ADD", CNI_NETNS="/proc/self/ns/net")
    assert plugin.calls[0][1] == Path("/proc/self/ns/net").stat().st_ino
    assert plugin.calls[0][0].netns_path == "/proc/self/ns/net"


def test_a_namespace_that_is_gone_is_for_the_plugin_to_judge(host: Host, plugin: Plugin) -> None:
    assert host.run("DEL", CNI_NETNS="/run/netns/no-such") == (0, b"answer")
    assert plugin.calls[0][1] is None


def test_descriptors_are_closed_after_each_call(host: Host, plugin: Plugin) -> None:
    host.run("ADD", CNI_NETNS="/proc/self/ns/net")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        host.run("ADD", CNI_NETNS="/proc/self/ns/net")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_only_cni_variables_are_sent(host: Host, plugin: Plugin) -> None:
    host.run("ADD", PATH="/bin", SECRET="x", CNI_PATH="/opt/cni/bin")
    assert host.run("ADD") == (0, b"answer")


def test_an_error_of_the_plugin_is_printed_with_exit_code_one(host: Host, plugin: Plugin) -> None:
    plugin.reply = CniError(Code.CLAIM_IN_USE, "taken", "by b")
    assert host.error("ADD", host.config(cniVersion="1.0.0")) == {
        "cniVersion": "1.0.0",
        "code": 100,
        "msg": "tandem: taken",
        "details": "by b",
    }


def test_an_unexpected_error_of_the_plugin_is_try_again_later(host: Host, plugin: Plugin) -> None:
    plugin.reply = KeyError("x")
    assert host.error("ADD")["code"] == Code.TRY_LATER


def test_a_large_configuration_and_a_large_answer_pass(host: Host, plugin: Plugin) -> None:
    plugin.reply = Reply(0, b"x" * (1 << 19))
    config = host.config(padding="y" * (1_000_000))
    assert host.run("ADD", config) == (0, b"x" * (1 << 19))
    assert plugin.calls[0][0].config == config


def test_too_large_a_configuration_is_refused(host: Host, plugin: Plugin) -> None:
    assert host.error("ADD", b" " * (1 << 20))["code"] == Code.CONFIG
    assert plugin.calls == []


def test_too_large_an_environment_is_refused(host: Host, plugin: Plugin) -> None:
    assert host.error("ADD", CNI_PATH="x" * (1 << 16))["code"] == Code.ENVIRONMENT


def test_a_configuration_that_is_no_json_gets_a_decode_error(host: Host, plugin: Plugin) -> None:
    # With nothing to be found in it the shim takes the default socket, where nobody is.
    assert host.error("ADD", b"\x00junk{")["code"] == Code.CONFIG


def test_version_is_answered_with_nobody_there(host: Host) -> None:
    code, stdout = host.run("VERSION")
    assert code == 0
    assert json.loads(stdout) == {
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


# ---- the plugin away


def test_away_a_pod_without_a_record_starts_and_stops(host: Host) -> None:
    for folder_is_there in (False, True):
        if folder_is_there:
            host.record("another-pod")
        code, stdout = host.run("ADD")
        assert (code, json.loads(stdout)) == (0, PREVIOUS)
        for command in ("DEL", "CHECK"):
            assert host.run(command) == (0, b"")


def test_away_a_pod_with_a_record_waits_and_is_named(host: Host) -> None:
    host.record(UID)
    for command in ("ADD", "DEL", "CHECK"):
        error = host.error(command)
        assert error["code"] == Code.TRY_LATER
        assert UID in error["msg"]


def test_away_a_marker_stops_unknown_pods_from_starting_but_not_from_stopping(host: Host) -> None:
    host.record(".shared-claim-1")
    error = host.error("ADD")
    assert error["code"] == Code.TRY_LATER
    assert "share" in error["msg"]
    assert host.run("DEL") == (0, b"")
    assert host.run("CHECK") == (0, b"")


def test_away_a_marker_among_thousands_of_records_is_seen(host: Host) -> None:
    for number in range(2000):
        host.record(f"pod-{number:040}")
    assert host.run("ADD")[0] == 0
    host.record(".shared-claim-1")
    assert host.error("ADD")["code"] == Code.TRY_LATER


def test_away_unreadable_records_stop_the_pod(host: Host) -> None:
    host.records.write_text("a file, not a folder")
    assert host.error("ADD")["code"] == Code.TRY_LATER


def test_away_gc_and_status_succeed_so_that_the_node_stays_ready(host: Host) -> None:
    host.record(UID)
    assert host.run("GC") == (0, b"")
    assert host.run("STATUS") == (0, b"")


def test_away_an_unknown_command_or_none_is_an_error(host: Host) -> None:
    assert host.error("FROB")["code"] == Code.ENVIRONMENT
    assert host.error("")["code"] == Code.ENVIRONMENT


def test_away_without_prev_result_says_what_is_wrong(host: Host) -> None:
    config = {key: value for key, value in host.config().items() if key != "prevResult"}
    error = host.error("ADD", config)
    assert error["code"] == Code.CONFIG
    assert "chain" in error["msg"]


@pytest.mark.parametrize("uid", ["../../etc/passwd", "a/b", "", ".", "x" * 200, "a b"])
def test_away_a_uid_that_would_be_a_path_is_refused(host: Host, uid: str) -> None:
    assert host.error("ADD", CNI_ARGS=f"A=b;K8S_POD_UID={uid}")["code"] == Code.ENVIRONMENT


def test_away_a_sandbox_without_a_pod_passes(host: Host) -> None:
    assert host.run("ADD", CNI_ARGS="")[0] == 0


def test_a_dead_socket_and_a_server_that_hangs_up_count_as_away(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.socket))
        assert host.run("ADD")[0] == 0  # nobody listens: ECONNREFUSED
        listener.listen()

        def hang_up() -> None:
            for answer in (b"", b"\0\0\0\0\x10\0\0\0half"):
                connection, _ = listener.accept()
                connection.recv(1 << 21)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        host.record(UID)
        assert host.error("ADD")["code"] == Code.TRY_LATER
        (host.records / UID).unlink()
        code, stdout = host.run("ADD")
        assert (code, json.loads(stdout)) == (0, PREVIOUS)
        thread.join()


_words = st.text(max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _words,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_words | st.just("prevResult"), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_words, _json, max_size=3), _json, st.booleans(), st.sampled_from([None, 1]))
def test_away_the_scanner_finds_exactly_the_top_level_prev_result(
    host: Host, around: dict[str, Any], previous: Any, ascii_only: bool, indent: int | None
) -> None:
    around.pop("prevResult", None)
    config = {**around, **host.config(prevResult=previous), "z": [around, '"}{']}
    code, stdout = host.run("ADD", json.dumps(config, ensure_ascii=ascii_only, indent=indent).encode())
    assert code == 0
    assert json.loads(stdout) == previous


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text('{}[]":,\\ prevResult1', max_size=40).map(str.encode))
def test_away_any_bytes_end_in_a_result_or_an_error(host: Host, junk: bytes) -> None:
    code, stdout = host.run("ADD", junk)
    assert code in (0, 1)
    if code:
        assert json.loads(stdout)["code"] == Code.CONFIG


def test_setting_that_is_too_long_or_escaped_is_refused(host: Host) -> None:
    for value in ("/x" * 100, "/a\nb", 5):
        assert host.error("ADD", host.config(socket=value))["code"] == Code.CONFIG


def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no C compiler 'no-such-cc'"):
        build(tmp_path / "tandem", compiler="no-such-cc")
    with pytest.raises(BuildError, match="false failed"):
        build(tmp_path / "tandem", compiler="false")
    assert list(tmp_path.iterdir()) == []


# ---- the server


def test_a_stale_socket_is_replaced_and_a_newer_one_survives_stop(host: Host) -> None:
    host.socket.write_text("left behind")
    first, second = CniServer(host.socket, Plugin()), CniServer(host.socket, Plugin())
    first.start()
    assert host.run("ADD") == (0, b"answer")
    second.start()
    first.stop()
    assert host.run("ADD") == (0, b"answer")
    second.stop()
    assert not host.socket.exists()


def test_the_socket_is_roots_alone(host: Host, plugin: Plugin) -> None:
    assert host.socket.stat().st_mode & 0o777 == 0o600
