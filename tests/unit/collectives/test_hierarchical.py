"""Reduction in levels; nodes are imagined: parts of the ranks that share their own memory."""

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives.algorithms.hierarchical import in_levels
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Operands
from hpckit.machine.links import Links
from hpckit.machine.node_memory import NodeMemory

pytestmark = pytest.mark.mpi
NODES = {
    "one": lambda rank: 0,
    "pairs": lambda rank: rank // 2,
    "round robin": lambda rank: rank % 2,
    "uneven": lambda rank: int(rank == 2),
    "single": lambda rank: rank,
}


def channel_of(comm, node_of):
    node = comm.Split(node_of(comm.rank), comm.rank)
    channel = Channel(comm, NodeMemory(node))
    node.Free()
    return channel


@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("grouping", [None, "one group", "by node", "uneven groups"])
def test_levels(comm, nodes, grouping):
    node = NODES[nodes]
    groups = grouping and [
        {"one group": 0, "by node": node(rank), "uneven groups": int(node(rank) > 0)}[grouping]
        for rank in range(comm.size)
    ]
    channel = channel_of(comm, node)
    for n in (0, 1, 3, 1000, 20011):
        terms = [
            np.random.default_rng(rank).integers(0, 1000, n).astype(float)
            for rank in range(comm.size)
        ]
        x, y = terms[comm.rank].copy(), np.empty(n)
        inside, outside = (
            in_levels(Operands(channel, x, target, op, 20.0), groups)
            for target, op in ((x, MPI.SUM), (y, MPI.MAX))
        )
        for _ in range(2):
            x[:] = terms[comm.rank]
            outside()
            inside.start()
            while not inside.poll():
                pass
            np.testing.assert_array_equal(x, sum(terms))
            np.testing.assert_array_equal(y, np.max(terms, axis=0))
            x[:] = terms[comm.rank]
            outside.start()
            outside.wait()
            inside()
            np.testing.assert_array_equal(x, sum(terms))


def test_lanes_know_that_nodes_are_far(comm):
    channel = channel_of(comm, NODES["single"])
    size = channel.comm.size

    def eager():
        lane = channel.part("lane", 0)
        return lane.part("group", 0).eager

    assert eager() == 0
    far = np.full((size, size), 4e-3)
    channel.links = Links.of_tables(range(size), far, far, overhead=0.0, crowd=1.0, gamma=0.0)
    assert eager() == channel.eager == 1 << 15
    x = np.full(20_000, 1.0)  # cut into messages of 4096
    in_levels(Operands(channel, x, x, MPI.SUM, 20.0))()
    assert (x == size).all()


def test_all_ranks_get_the_same_bits(comm):
    x = np.random.default_rng(comm.rank).normal(size=5003)
    in_levels(Operands(channel_of(comm, NODES["pairs"]), x, x, MPI.SUM))()
    assert len(set(comm.allgather(x.tobytes()))) == 1
