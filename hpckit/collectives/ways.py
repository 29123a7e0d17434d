"""All ways of an allreduce by their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import ALGORITHMS, ORDERED, star
from hpckit.collectives.channel import Channel
from hpckit.collectives.cost import root, shares
from hpckit.collectives.engine import Messages, Way
from hpckit.collectives.hierarchical import Hierarchical
from hpckit.collectives.native import Native
from hpckit.collectives.shared import Shared
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError

Bind = Callable[[Channel, np.ndarray, np.ndarray, MPI.Op, float | None], Way]


def bind(
    name: str, channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None = None
) -> Way:
    """The way of that name, bound to its arrays; `ConfigError` on all ranks where it cannot be taken (collective)."""
    if not op.is_commutative and name not in IN_ORDER:
        raise ConfigError(
            f"algorithm {name!r} reorders operands, but the operation does not commute: use {', '.join(IN_ORDER)}"
        )
    if name == "shared" and not channel.one_node:
        raise ConfigError(
            f"algorithm 'shared' needs all {channel.size} ranks on one node, but there are {channel.node.comm.size} on"
            " this one: use 'hierarchical'"
        )
    return WAYS[name](channel, source, target, op, deadline)


def possible(channel: Channel, op: MPI.Op) -> list[str]:
    """Names of the ways that `bind` would take (collective)."""
    impossible = [] if channel.shares_memory else ["hierarchical", "shared"]
    if not channel.one_node:
        impossible.append("shared")
    return [name for name in WAYS if (op.is_commutative or name in IN_ORDER) and name not in impossible]


def _messages(name: str) -> Bind:
    def way(channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None) -> Messages:
        n, size, links = target.size, channel.size, channel.links
        cuts = (shares(links, n) if links and name == "twoshot" else None) or starts(n, size)
        algorithm = partial(star, root=root(links)) if links and name == "star" else ALGORITHMS[name]
        schedule = algorithm(channel.rank, size, cuts)
        return Messages(channel, source, target, op, schedule, deadline)

    return way


def _hierarchical(
    channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None
) -> Hierarchical:
    groups = channel.links.groups() if channel.links else None
    return Hierarchical(channel, source, target, op, deadline, groups)


WAYS: dict[str, Bind] = {
    "native": Native,
    **{name: _messages(name) for name in ALGORITHMS},
    "hierarchical": _hierarchical,
    "shared": Shared,
}
IN_ORDER = ("native", *ORDERED, "shared")
