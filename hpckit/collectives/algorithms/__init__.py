"""The algorithms of an allreduce by name: a new one is its file and a line in `hpckit.names`."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit import names
from hpckit.collectives.algorithms.algorithm import Algorithm, ByMessages
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Operands, Persistent, alone
from hpckit.errors import ConfigError
from hpckit.machine.links import Links
from hpckit.names import load

ALGORITHMS: dict[str, Algorithm] = {name: make() for name, make in load(names.ALGORITHMS).items()}
DEVICE_ALGORITHMS: dict[str, Algorithm] = {
    name: make() for name, make in load(names.DEVICE_ALGORITHMS).items()
}
NAMED = {"host": ALGORITHMS, "device": DEVICE_ALGORITHMS | ALGORITHMS}  # by kind of place
BY_MESSAGES = {name: a for name, a in ALGORITHMS.items() if isinstance(a, ByMessages)}
IN_RANK_ORDER = [name for name, a in ALGORITHMS.items() if a.in_rank_order]


def bind(algorithm: Algorithm, operands: Operands) -> Persistent:
    """The operation of this algorithm on these arrays (collective).

    Raises `ConfigError` on all ranks where it cannot serve them.
    """
    channel = operands.channel
    if not operands.op.is_commutative and not algorithm.in_rank_order:
        raise ConfigError(
            f"algorithm {algorithm.name!r} reorders operands, but the operation does not commute: "
            f"use {', '.join(IN_RANK_ORDER)}"
        )
    if algorithm.on_one_node and not channel.one_node:
        raise ConfigError(
            f"algorithm {algorithm.name!r} needs all {channel.size} ranks on one node, but there "
            f"are {channel.node.comm.size} on this one: use 'hierarchical'"
        )
    if channel.size == 1 and not algorithm.acts_alone:
        return alone(operands)
    return algorithm.bind(operands)


def possible(
    channel: Channel, op: MPI.Op, like: np.ndarray | None = None, kind: str = "host"
) -> list[str]:
    """Names of the algorithms that `bind` would take (collective).

    like, kind : an array as they are reduced, and of which kind its place is; None: any
    """
    shares_memory = channel.shares_memory
    return [
        name
        for name, algorithm in NAMED[kind].items()
        if (op.is_commutative or algorithm.in_rank_order)
        and (shares_memory or not algorithm.in_shared_memory)
        and (channel.one_node or not algorithm.on_one_node)
        and (like is None or _takes(algorithm, like, op))
    ]


def _takes(algorithm: Algorithm, array: np.ndarray, op: MPI.Op) -> bool:
    try:
        algorithm.check(array, op, 1)
    except ConfigError:
        return False
    return True


def predict(links: Links, nbytes: int, ranks: int | None = None) -> dict[str, float]:
    """Seconds of each algorithm that sends messages.

    ranks : as many as the links were measured for, or, for estimates, any number of ranks on nodes
        like those
    """
    p = ranks or len(links.node_of)
    if p == 1:
        return {}
    costs = {name: algorithm.cost(links, nbytes, p) for name, algorithm in ALGORITHMS.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}
