"""The demo's story: what it starts, what it looks at, and what it holds Tandem to."""

from __future__ import annotations

from deploy.demo.facts import (
    Inside,
    NodeState,
    Pair,
    apart,
    complaints,
    devices,
    differences,
    pairs_of,
    pings,
    shared_devices,
)
from deploy.demo.report import Report
from deploy.demo.stage import DemoError, Stage

PAIRS_WANTED = {"pair-a": 1, "pair-b": 1, "four-a": 4, "four-b": 4}
GANG = ("four-a", "four-b")


def tell(stage: Stage, report: Report) -> list[str]:
    """Runs the whole story on a cluster of two nodes or more; returns what is not as promised.

    Raises:
        DemoError: it came to a halt.
        KubeError: the API server said no.
    """
    nodes = stage.nodes()
    if len(nodes) < 2:
        raise DemoError(f"the demo needs two nodes that take pods; there is {', '.join(nodes) or 'none'}")
    with report.step("Tandem, from deploy/overlays/mock: each node plays a DGX H100"):
        stage.install(nodes)
    published = devices(stage.slices())
    report.devices(published)
    before = stage.node_states()

    with report.step("pods: one GPU + one VF, and a gang with four of each, on two nodes"):
        stage.label(nodes)
        stage.prepare_namespace()
        stage.start("pods.yaml")
        pods = {pod.metadata.name: pod for pod in stage.running()}
    found: list[str] = []
    pairs: list[Pair] = []
    insides: dict[str, Inside] = {}
    for name, wanted in PAIRS_WANTED.items():
        of_pod = pairs_of(pods[name], stage.claim_of(pods[name]))
        insides[name] = stage.look_inside(name)
        found += complaints(name, of_pod, wanted, insides[name])
        pairs += of_pod
    found += [f"{device} was given out twice" for device in shared_devices(pairs)]
    found += apart(pairs, GANG)
    report.title("Each GPU came with a VF behind the same PCIe switch; the gang is on the same rails")
    report.pairs(pairs)
    report.title("What the containers see")
    report.insides(insides)

    calls = pings(pairs)
    results = [(call, stage.ping(call)) for call in calls]
    found += [f"rail {call.rail}: no answer to {call.source}" for call, answer in results if not answer]
    if not calls:
        found.append("no rail connects two of the pods")
    report.title("Node to node over the secondary interfaces, rail by rail")
    report.pings(results)

    report.title("Four more pairs, when neither node has as many left")
    stage.start("too-many.yaml")
    report.say(stage.why_it_waits("too-many"))

    found += stage.blind_plugins()

    report.title("Away with the pods")
    with report.step("deleting them all"):
        stage.delete_pods()
    found += _what_is_left(stage, published, before)
    if not found:
        report.say("every device, interface and ledger row is back")
        report.devices(devices(stage.slices()))
    return found


def _what_is_left(stage: Stage, published: dict[str, int], before: dict[str, NodeState]) -> list[str]:
    """What is not back as it was, after the kubelets had a moment for it."""

    def look() -> list[str]:
        after, now = stage.node_states(), devices(stage.slices())
        left = [line for node in before for line in differences(node, before[node], after[node])]
        left += [f"claim {claim.metadata.name} is left behind" for claim in stage.claims()]
        short = [key for key, count in published.items() if now.get(key) != count]
        return left + [f"{key}: {now.get(key, 0)} devices, before {published[key]}" for key in short]

    try:
        stage.wait_for("all to be back", lambda: not look(), 15)
    except DemoError:
        return look()
    return []
