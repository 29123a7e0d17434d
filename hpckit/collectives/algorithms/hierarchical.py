"""Within the node, then between nodes on as many lanes as all nodes have ranks.

In the node's shared memory, rank l of each node gets the node's sum of slice l; the ranks l of all
nodes, a lane, reduce it by messages; the memory brings all slices to all ranks. So each byte of a
node leaves it once, from several ranks at once. With a third level, nodes are grouped: a lane first
divides its slice among the nodes of a group, so that the links between groups carry only that part
of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mpi4py import MPI

from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.algorithms.oneshot import OneShot
from hpckit.collectives.algorithms.shared import SharedReduction
from hpckit.collectives.algorithms.twoshot import (
    TwoShot,
    direct_allgather,
    direct_reduce_scatter,
)
from hpckit.collectives.messages import Messages
from hpckit.collectives.persistent import Operands, Persistent, Stages
from hpckit.comm.partition import starts
from hpckit.machine.links import Links

_ONESHOT = 4096  # bytes of a lane up to which one latency is worth sending everything to everybody


class Hierarchical(Algorithm):
    """Two levels, or three where the links show groups of nodes."""

    name = "hierarchical"
    in_shared_memory = True

    def cost(self, links: Links, nbytes: int, ranks: int) -> float | None:
        """Between nodes two-shots, a lane per rank of a node; within two passes over memory."""
        measured = len(links.node_of)
        nodes = links.nodes if ranks == measured else math.ceil(ranks * links.nodes / measured)
        if nodes == 1 or ranks // nodes <= 1:
            return None
        a, b = links.slowest()
        between = 2 * (a + (nodes - 1) * (links.overhead + nbytes / nodes * b * links.crowd))
        within = 4 * links.within + 4 * nbytes * links.gamma
        return between + within

    def bind(self, operands: Operands) -> Stages:
        links = operands.channel.links
        return in_levels(operands, links.groups() if links else None)


def in_levels(operands: Operands, groups: Sequence[int] | None = None) -> Stages:
    """The stages described above (collective).

    groups : for each rank the number of its group of nodes; None: two levels
    """
    channel, group = operands.channel, operands.group
    lanes = channel.comm.allreduce(channel.node.comm.size, MPI.MIN)
    place = channel.node.comm.rank
    lane = channel.part("lane", place if place < lanes else None)
    cuts = [group * start for start in starts(operands.groups, lanes)]
    within = SharedReduction(operands, cuts)
    between: list[Persistent] = []
    if lane:
        own = operands.target[within.owned]
        number = None if groups is None else groups[channel.rank]
        between = _between(replace(operands, channel=lane, source=own, target=own), number)
    return Stages([within.reduce_scatter, *between, within.allgather])


def _between(operands: Operands, number: int | None) -> list[Persistent]:
    """The stages between nodes: of one lane, on its slice.

    number : of this node's group
    """
    lane, group = operands.channel, operands.group
    if number is None:
        return [_direct(operands)]
    near = lane.part("group", number)
    assert near is not None  # every rank of a lane is in a group
    parts = lane.comm.allreduce(near.size, MPI.MIN)
    across = lane.part("across groups", near.rank if near.rank < parts else None)
    cuts = starts(operands.groups, parts)
    cuts += cuts[-1:] * (near.size - parts)
    nearby = replace(operands, channel=near)
    stages: list[Persistent] = [Messages(nearby, direct_reduce_scatter(near.rank, near.size, cuts))]
    if across:
        own = operands.target[group * cuts[near.rank] : group * cuts[near.rank + 1]]
        stages.append(_direct(replace(operands, channel=across, source=own, target=own)))
    stages.append(Messages(nearby, direct_allgather(near.rank, near.size, cuts)))
    return stages


def _direct(operands: Operands) -> Messages:
    """A direct exchange: all nodes send at once."""
    channel = operands.channel
    algorithm = OneShot() if operands.target.nbytes <= _ONESHOT else TwoShot()
    cuts = starts(operands.groups, channel.size)
    return Messages(operands, algorithm.schedule(channel.rank, channel.size, cuts))
