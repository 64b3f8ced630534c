"""The cases of one code path, each made from its number, and what becomes of one."""

from __future__ import annotations

import faulthandler
import hashlib
import itertools
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import guarded
import numpy as np
from engine import WINOGRAD, Net, forced
from fuzz.random_graph import random_graph
from networks import random_icnet

from sparse_icnet.network.graph import Bilinear, Graph, Size, resized
from sparse_icnet.operators import storage
from sparse_icnet.plan.program import Plan
from sparse_icnet.plan.proof import ProofError, prove
from sparse_icnet.target import TARGET

SLACKS = (0, 64, 256, 1024)  # and that of the engine
SECONDS = 10  # of a plan that the proof refused


@dataclass(frozen=True)
class Case:
    """kind: "icnet", "operators", "floats", "upsampled", "random"; kernel: index into `_policies`; seed: of a random one"""

    kind: str
    size: Size
    at_end: bool
    kernel: int = 0
    seed: int = 0

    def __str__(self) -> str:
        what = f"seed {self.seed}" if self.kind == "random" else "x".join(map(str, self.size))
        return f"{self.kind} {what}, {'end' if self.at_end else 'beginning'}, kernel {self.kernel}"


def cases(step: int, largest: Size, every: int, graphs: int) -> list[Case]:
    """All sizes in steps of `step` in both directions, ICNet at one of `every`; random graphs; each at both ends."""
    found = []
    sizes = itertools.product(range(step, largest[0] + 1, step), range(step, largest[1] + 1, step))
    for number, size in enumerate(sizes):
        kinds = [(kind, number) for kind in ("operators", "floats", "upsampled")]
        if number % every == 0 or size == largest:
            kinds.append(("icnet", number // every % 2))
        found += [Case(kind, size, at_end, kernel) for kind, kernel in kinds for at_end in (True, False)]
    found += [
        Case("random", (0, 0), at_end, seed, seed) for seed in range(graphs) for at_end in (True, False)
    ]
    return found


def _policies() -> list[object]:
    """Kernels of a convolution: what the planner chooses, filtering, every micro-kernel."""
    return [None, WINOGRAD, *TARGET.kernels]


@lru_cache(1)
def _icnet() -> Graph:
    return random_icnet((96, 96), seed=3)


def graph_of(case: Case) -> Graph:
    if case.kind == "icnet":
        return resized(_icnet(), case.size)
    if case.kind == "random":
        return random_graph(np.random.default_rng([20261126, case.seed]))
    net = Net(case.size, seed=5)
    height, width = case.size
    if case.kind == "upsampled":
        logits = net.convolution(net.image, 5, 3, 4)
        return net.softmax(net.add(Bilinear("up", logits, (height // 2 + 7, width + 5))))
    half = height // 2, width // 2
    if case.kind == "floats":
        x = net.max_pool(net.relu(net.float_convolution("image", 6, 3, 2)), 3, 1, 1)
        y = net.sum(x, net.resize(net.mean(x, (3, 2)), half))
        y = net.codes(net.float_convolution(y, 6, 3, dilation=2))
        return net.classify(y, net.codes("image"), grid=(height // 8, width // 8))
    x = net.codes(net.relu(net.convolution(net.image, 8, 3, 2)))
    y = net.codes(net.sum(net.convolution(x, 8, 3), net.resize(net.mean(x, (2, 3)), half)))
    z = net.codes(net.convolution(x, 8, 3, dilation=3))
    spread = net.resize(net.codes(net.convolution(y, 9, 5, 4)), half)
    shallow = net.codes(net.sum(x, y))
    return net.classify(y, z, net.max_pool(x, 3, 1, 1), shallow, spread, grid=(height // 8, width // 8))


def plan_of(case: Case) -> Plan | None:
    """Between forbidden pages, with the least slack that the proof accepts; None for what the engine cannot run."""
    graph, policies = graph_of(case), _policies()
    policy = forced(policies[case.kernel % len(policies)])  # type: ignore[arg-type]
    for slack in (*SLACKS, storage.SLACK):
        with guarded.guarded(case.at_end, slack):
            plan = guarded.unproven(graph, policy=policy)
        if plan is None:
            return None
        try:
            prove(plan)
        except ProofError:
            if slack == storage.SLACK:
                raise
        else:
            return plan
    return None


def run(case: Case, damages: int, counts: Counter[str], kinds: set[str]) -> str:
    """Run a case and, of random graphs, `damages` damaged plans; a digest of the results, "" if it cannot run."""
    plan = plan_of(case)
    if plan is None:
        counts["not runnable"] += 1
        return ""
    counts["runs"] += 1
    kinds.update(step.kind.__name__ for step in plan.steps())
    total = hashlib.sha256()
    for result in guarded.run(plan):
        total.update(result.tobytes())
    if case.kind == "random":
        rng = np.random.default_rng([case.seed, case.at_end])
        for _ in range(damages):
            with guarded.damaged(plan, rng):
                counts[_judged(plan)] += 1
    return total.hexdigest()[:16]


def _judged(plan: Plan) -> str:
    """What becomes of a damaged plan; one that the proof accepts runs here."""
    try:
        prove(plan)
    except ProofError:
        return f"damaged, refused, {_fate(plan)}"
    if guarded.lasts(plan):
        return "damaged, accepted, too long to run"
    guarded.run(plan)
    return "damaged, accepted, ran"


def _fate(plan: Plan) -> str:
    """Of a plan that the proof refused, in a process of its own."""
    if guarded.lasts(plan):
        return "too long to run"
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            faulthandler.disable()
            guarded.run(plan)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        return "harmless when run"
    fatal = (signal.SIGSEGV, signal.SIGBUS)
    return "killed at a page when run" if os.WTERMSIG(status) in fatal else "stopped when run"


def numbered(found: Sequence[Case], first: int) -> Iterator[tuple[int, Case]]:
    yield from itertools.islice(enumerate(found), first, None)
