"""pyAgrum as an oracle, in a process of its own: it and torch do not live in one.

`ask("read", paths)` and so on run this file as a program, JSON in and JSON out.
"""

import json
import subprocess
import sys
from typing import Any


def ask(question: str, argument: Any) -> Any:
    """What pyAgrum answers."""
    call = [sys.executable, "-W", "ignore", __file__, question]
    done = subprocess.run(call, input=json.dumps(argument), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def read(paths: list[str]) -> list[Any]:
    """Each BIF file's nodes with their states and parents, and its tables by name; None where it cannot be read."""
    import pyagrum

    found: list[Any] = []
    for path in paths:
        try:
            net = pyagrum.loadBN(path)
        except pyagrum.GumException:
            found.append(None)
            continue
        nodes = {}
        for name in net.names():
            node, cpt = net.idFromName(name), net.cpt(name)
            parents = [net.variable(i).name() for i in net.parents(node)]
            values = cpt.reorganize([name, *parents]).toarray()  # axes in reverse: the node's own is the last
            nodes[name] = {"states": list(net.variable(name).labels()), "parents": parents, "table": values.tolist()}
        found.append(nodes)
    return found


def em(task: dict[str, Any]) -> dict[str, Any]:
    """Tables by maximum likelihood from a CSV file with gaps ("?"), for a graph whose states are given."""
    import pyagrum

    net = pyagrum.BayesNet()
    for name, states in task["states"].items():
        net.add(pyagrum.LabelizedVariable(name, name, states))
    for parent, child in task["edges"]:
        net.addArc(parent, child)
    learner = pyagrum.BNLearner(task["rows"], net, ["?"])
    pyagrum.initRandom(0)  # it begins with noise
    learner.useEMWithDiffCriterion(1e-9)
    fitted = learner.learnParameters(net.dag())
    tables = {}
    for name in task["states"]:
        parents = [fitted.variable(i).name() for i in fitted.parents(fitted.idFromName(name))]
        order = [p for p in task["states"] if p in parents]  # axes in reverse: the first parent is the first
        tables[name] = fitted.cpt(name).reorganize([name, *reversed(order)]).toarray().tolist()
    return tables


if __name__ == "__main__":
    answers: dict[str, Any] = {"read": read, "em": em}
    print(json.dumps(answers[sys.argv[1]](json.load(sys.stdin))))
