"""`python -m deploy.demo`: pods with GPU+NIC pairs on a real Kubernetes, and everything away again.

It checks all that it shows: the exit status is 0 only if everything is as promised. Whatever happens, an
interrupt included, the cluster that it made is gone afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from cni.build import BuildError
from deploy.demo.report import Report
from deploy.demo.stage import DemoError, Stage
from deploy.demo.story import tell
from deploy.image.build import ImageError, build_image
from deploy.image.debian import BaseError
from driver.errors import TandemError
from tests.controlplane import Cluster, ControlPlaneError
from tests.controlplane.state import failure_logs

_ERRORS = (BaseError, BuildError, ControlPlaneError, DemoError, ImageError, TandemError)


def main() -> int:
    """Returns the exit status: 0, 1 when something was not as promised, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description="Shows Tandem at work.")
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="a cluster of two nodes that has the images already (default: one is made, and removed again)",
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = Report()
    try:
        with _stage(arguments.kubeconfig, report) as stage:
            found = _tell(stage, report)
    except KeyboardInterrupt:
        report.complaints(["interrupted; all is removed"])
        return 130
    except _ERRORS as error:
        report.complaints([str(error)])
        if not arguments.kubeconfig and failure_logs().exists():
            report.say(f"the cluster's logs: {failure_logs()}")
        found = [str(error)]
    else:
        report.complaints(found)
    report.end(not found)
    return 1 if found else 0


def _tell(stage: Stage, report: Report) -> list[str]:
    try:
        return tell(stage, report)
    except Exception:
        for part in stage.diagnosis():
            print(part, file=sys.stderr)
        raise


@contextmanager
def _stage(kubeconfig: Path | None, report: Report) -> Iterator[Stage]:
    """The given cluster, cleaned of what the demo did; or a new one, removed whole."""
    with ExitStack() as stack:
        if kubeconfig:
            stage = Stage(Path(shutil.which("kubectl") or "kubectl"), kubeconfig)
            stack.callback(stage.clear)
        else:
            with report.step("the image of Tandem"):
                image = build_image()
            with report.step("Kubernetes of two nodes"):
                cluster = stack.enter_context(Cluster.start(nodes=2))
            with report.step("the image, into both nodes"), ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: node.import_image(image), cluster.nodes))
            stage = Stage(cluster.programs["kubectl"], cluster.kubeconfig)
        stack.callback(stage.close)
        yield stage


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
