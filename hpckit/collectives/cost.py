"""What an allreduce should cost by each algorithm, from the links' measured latency and time per
byte.

The formulas are those of `hpckit.collectives.algorithms`, with the links' `overhead` for each
further message of a direct exchange, their `crowd` where all ranks send at once, and gamma for the
additions (Thakur, Rabenseifner & Gropp, IJHPCA 19, 2005). Latency and time per byte are those of
the slowest pair that an algorithm must use.
"""

from __future__ import annotations

import math

import numpy as np

from hpckit.machine.links import Links


def predict(links: Links, nbytes: int, ranks: int | None = None) -> dict[str, float]:
    """Seconds of each algorithm that sends messages.

    ranks : as many as the links were measured for, or, for estimates, any number of ranks on nodes
        like those
    """
    p = ranks or len(links.node_of)
    if p == 1:
        return {}
    a, b = links.slowest()
    m, c, o, g = nbytes / p, b * links.crowd, links.overhead, links.gamma
    levels = math.ceil(math.log2(p))
    fold = 0.0 if p & (p - 1) == 0 else 2 * (a + o + nbytes * b)  # ranks beyond a power of two
    halving = 2 * math.floor(math.log2(p)) * (a + o) + 2 * nbytes * (p - 1) / p * b
    return {
        "ring": 2 * (p - 1) * (a + o + m * b) + (p - 1) * m * g,
        "star": 2 * (a + (p - 1) * (o + nbytes * b)) + (p - 1) * nbytes * g,
        "oneshot": a + (p - 1) * (o + nbytes * c + nbytes * g),
        "twoshot": 2 * (a + (p - 1) * o) + 2 * (p - 1) * m * c + (p - 1) * m * g,
        "recursive_doubling": math.floor(math.log2(p)) * (a + o + nbytes * (b + g)) + fold,
        "rabenseifner": halving + (p - 1) * m * g + fold,
        "tree": 2 * levels * (a + o + nbytes * b) + levels * nbytes * g,
    } | _hierarchical(links, nbytes, p)


def shares(links: Links, n: int) -> list[int] | None:
    """Cuts of n elements into the slices that ranks should own in a two-shot; None: equal ones are
    best.

    A rank that owns s elements sends n - s of others, and (p - 1) s as results: with time b per
    element that takes b (n + (p - 2) s). Ranks behind slow links get less, or nothing, such that
    the slowest rank is done soonest.
    """
    p = len(links.node_of)
    b = links.per_node(links.beta, np.median)[list(links.node_of)]
    if p < 3 or not b.min() or b.max() < 1.5 * b.min():
        return None

    def owned(limit: float) -> np.ndarray:
        return np.maximum((limit / b - n) / (p - 2), 0.0)

    low, high = 0.0, float(b.max()) * n * (p - 1)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if owned(middle).sum() < n else (low, middle)
    part = owned(high)
    return [0, *np.rint(n * np.cumsum(part) / part.sum()).astype(int).tolist()]


def root(links: Links) -> int:
    """The rank that is nearest to all others: where a star should have its middle."""
    return int(links.per_node(links.alpha, np.max)[list(links.node_of)].argmin())


def _hierarchical(links: Links, nbytes: int, p: int) -> dict[str, float]:
    """Between nodes two-shots of as many lanes as a node has ranks; within them two passes over
    memory.
    """
    nodes = (
        links.nodes if p == len(links.node_of) else math.ceil(p * links.nodes / len(links.node_of))
    )
    lanes = max(p // nodes, 1)
    if nodes == 1 or lanes == 1:
        return {}
    a, b = links.slowest()
    between = 2 * (a + (nodes - 1) * (links.overhead + nbytes / nodes * b * links.crowd))
    within = 4 * links.within + 4 * nbytes * links.gamma
    return {"hierarchical": between + within}
