"""`tandem explain`, and `tandem plan` without files, over HTTP from an API server's lists."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cli.main import main
from driver.kube import paths
from tests.unit.controller.things import CLASSES, a_claim, a_node, a_pod, an_inventory, slices_of

LISTS: dict[str, list[Any]] = {
    paths.nodes(): [a_node("n", cpu="4")],
    paths.slices(): slices_of("n", an_inventory(pairs=2)),
    paths.classes(): list(CLASSES),
    paths.namespaces(): [],
    paths.networks(): [],
    paths.storage_classes(): [],
    paths.volumes(): [],
    paths.volume_claims(): [],
    paths.claims(): [a_claim("c", gpus=3, nics=3), a_claim("small"), a_claim("idle")],
    paths.pods(): [a_pod("p", ["c"]), a_pod("q", ["small"])],
}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        items = LISTS[self.path.split("?")[0]]
        body = msgspec.json.encode({"metadata": {"resourceVersion": "1"}, "items": items})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    path = tmp_path_factory.mktemp("kube") / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path.write_text(yaml.safe_dump(document))
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_claim_that_waits_says_why_line_by_line(
    kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "claim/c", f"--kubeconfig={kubeconfig}"]) == 3
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith('claim default/c (for p) waits: 0/1 nodes: 1 × request "gpu": 3 wanted, 2 free')


def test_a_claim_that_is_not_there_is_an_error(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "claim/none", f"--kubeconfig={kubeconfig}"]) == 1
    assert "there is no claim default/none" in capsys.readouterr().err


def test_something_else_than_a_claim_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["explain", "gang/c"])
    assert exit_.value.code == 2
    assert "'gang/c' is not claim/NAME" in capsys.readouterr().err


def test_plan_without_files_asks_the_cluster(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-o", "json", f"--kubeconfig={kubeconfig}"]) == 3
    pods = json.loads(capsys.readouterr().out)["pods"]
    assert {pod["name"]: pod["node"] for pod in pods} == {"p": None, "q": "n", None: "n"}


def test_a_cluster_that_does_not_answer_is_no_wrong_input(
    tmp_path: Path, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    assert main(["plan", f"--kubeconfig={tmp_path}/config"]) == 1
    assert capsys.readouterr().err.startswith("tandem plan: ")
