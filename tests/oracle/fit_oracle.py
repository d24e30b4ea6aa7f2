"""kube-scheduler's filter plugins (tests/oracle/fit, built once) as a process that answers many questions."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.controlplane.build import TOOLS, build
from tests.oracle.fit_questions import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """`refused`: nodes that do not do, each with the plugin that says so first."""

    refused: Mapping[str, str]


def ask(questions: Iterable[Json]) -> list[Answer]:
    """All answers, in order.

    Raises:
        RuntimeError: it took a question for wrong.
    """
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    program = build(TOOLS["fit"]) / "fit"
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [answer["error"] for answer in answers if answer.get("error")]
    if done.returncode or wrong:
        raise RuntimeError(done.stderr or wrong[0])
    return [Answer({node: said["plugin"] for node, said in a["refused"].items()}) for a in answers]
