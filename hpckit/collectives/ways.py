"""All ways of an allreduce by their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import ALGORITHMS, ORDERED, star
from hpckit.collectives.channel import Channel
from hpckit.collectives.cost import root, shares
from hpckit.collectives.engine import Messages, Way, alone
from hpckit.collectives.hierarchical import Hierarchical
from hpckit.collectives.native import by_mpi
from hpckit.collectives.shared import Shared
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError

Bind = Callable[[Channel, np.ndarray, np.ndarray, MPI.Op, float | None], Way]


def bind(
    name: str,
    channel: Channel,
    source: np.ndarray,
    target: np.ndarray,
    op: MPI.Op,
    deadline: float | None = None,
    group: int = 1,
) -> Way:
    """The way of that name, bound to its arrays; `ConfigError` on all ranks where it cannot be
    taken (collective).

    group : numbers that stay together in every cut
    """
    if not op.is_commutative and name not in IN_ORDER:
        raise ConfigError(
            f"algorithm {name!r} reorders operands, but the operation does not commute: use "
            f"{', '.join(IN_ORDER)}"
        )
    if name == "shared" and not channel.one_node:
        raise ConfigError(
            f"algorithm 'shared' needs all {channel.size} ranks on one node, but there are "
            f"{channel.node.comm.size} on"
            " this one: use 'hierarchical'"
        )
    if channel.size == 1:
        return alone(source, target, op)
    return WAYS[name](channel, source, target, op, deadline, group)


def possible(channel: Channel, op: MPI.Op) -> list[str]:
    """Names of the ways that `bind` would take (collective)."""
    impossible = [] if channel.shares_memory else ["hierarchical", "shared"]
    if not channel.one_node:
        impossible.append("shared")
    return [
        name for name in WAYS if (op.is_commutative or name in IN_ORDER) and name not in impossible
    ]


def _messages(name: str) -> Callable[..., Way]:
    def way(
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None,
        group: int,
    ) -> Way:
        n, size, links = target.size // group, channel.size, channel.links
        cuts = (shares(links, n) if links and name == "twoshot" else None) or starts(n, size)
        algorithm = (
            partial(star, root=root(links)) if links and name == "star" else ALGORITHMS[name]
        )
        schedule = algorithm(channel.rank, size, cuts)
        return Messages(channel, source, target, op, schedule, deadline, group)

    return way


def _hierarchical(
    channel: Channel,
    source: np.ndarray,
    target: np.ndarray,
    op: MPI.Op,
    deadline: float | None,
    group: int,
) -> Hierarchical:
    groups = channel.links.groups() if channel.links else None
    return Hierarchical(channel, source, target, op, deadline, groups, group)


def _shared(
    channel: Channel,
    source: np.ndarray,
    target: np.ndarray,
    op: MPI.Op,
    deadline: float | None,
    group: int,
) -> Shared:
    return Shared(channel, source, target, op, deadline, group=group)


WAYS: dict[str, Callable[..., Way]] = {
    "native": by_mpi,
    **{name: _messages(name) for name in ALGORITHMS},
    "hierarchical": _hierarchical,
    "shared": _shared,
}
IN_ORDER = ("native", *ORDERED, "shared")
