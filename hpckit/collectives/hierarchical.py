"""Way `hierarchical`: reduce within the node, then between nodes on as many lanes as all nodes have
ranks.

In the node's window, rank l of each node gets the node's sum of slice l; the ranks l of all nodes,
a lane, reduce it by messages; the window brings all slices to all ranks. So each byte of a node
leaves it once, from several ranks at once. With a third level, nodes are grouped: a lane first
divides its slice among the nodes of a group, so that the links between groups carry only that part
of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import (
    Algorithm,
    direct_allgather,
    direct_reduce_scatter,
    oneshot,
    twoshot,
)
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Messages, Stages, Way
from hpckit.collectives.shared import Shared
from hpckit.comm.partition import starts

_ONESHOT = 4096  # bytes of a lane up to which one latency is worth sending everything to everybody


class Hierarchical(Stages):
    """The stages described above.

    groups : for each rank the number of its group of nodes; None: two levels
    group : numbers that stay together in every cut
    """

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        groups: Sequence[int] | None = None,
        group: int = 1,
    ) -> None:
        lanes = channel.comm.allreduce(channel.node.comm.size, MPI.MIN)
        place = channel.node.comm.rank
        lane = channel.part("lane", place if place < lanes else None)
        cuts = [group * start for start in starts(target.size // group, lanes)]
        window = Shared(channel, source, target, op, deadline, cuts, group)
        nodes = None if groups is None else groups[channel.rank]
        between = _between(lane, target[window.owned], op, deadline, nodes, group) if lane else []
        super().__init__([window.reduce_scatter, *between, window.allgather])


def _between(
    lane: Channel,
    array: np.ndarray,
    op: MPI.Op,
    deadline: float | None,
    nodes: int | None,
    group: int,
) -> list[Way]:
    """The stages between nodes: of one lane, on its slice; `nodes` is the number of this node's
    group.
    """

    def messages(
        channel: Channel, part: np.ndarray, algorithm: Algorithm, cuts: Sequence[int]
    ) -> Messages:
        return Messages(
            channel, part, part, op, algorithm(channel.rank, channel.size, cuts), deadline, group
        )

    def direct(channel: Channel, part: np.ndarray) -> Messages:
        algorithm = oneshot if part.nbytes <= _ONESHOT else twoshot
        return messages(channel, part, algorithm, starts(part.size // group, channel.size))

    if nodes is None:
        return [direct(lane, array)]
    within = lane.part("group", nodes)
    assert within is not None  # every rank of a lane is in a group
    parts = lane.comm.allreduce(within.size, MPI.MIN)
    across = lane.part("across groups", within.rank if within.rank < parts else None)
    cuts = starts(array.size // group, parts)
    cuts += cuts[-1:] * (within.size - parts)
    own = array[group * cuts[within.rank] : group * cuts[within.rank + 1]]
    halves = [
        messages(within, array, half, cuts) for half in (direct_reduce_scatter, direct_allgather)
    ]
    return [halves[0], *([direct(across, own)] if across else []), halves[1]]
