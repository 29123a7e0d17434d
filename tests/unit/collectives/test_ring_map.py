"""All pairs of blocks, against the whole computed at once."""

import numpy as np
import pytest

from hpckit.collectives.ring_map import ring_map
from hpckit.errors import ConfigError, HpckitError

pytestmark = pytest.mark.mpi


def test_distances_between_all_points(comm):
    sizes = [0 if rank == 1 else 5 + 3 * rank for rank in range(comm.size)]
    whole = np.random.default_rng(0).normal(size=(sum(sizes), 3))
    blocks = np.split(whole, np.cumsum(sizes)[:-1])
    mine = blocks[comm.rank].copy()
    parts = ring_map(comm, mine, lambda theirs, _: np.linalg.norm(mine[:, None] - theirs, axis=2))
    expected = np.linalg.norm(blocks[comm.rank][:, None] - whole, axis=2)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def test_each_block_comes_with_its_rank(comm):
    assert ring_map(comm, np.array([comm.rank]), lambda block, rank: (int(block[0]), rank)) == [
        (rank, rank) for rank in range(comm.size)
    ]


def test_one_rank_that_raises_stops_all(comm):
    def fail(_, source):
        if comm.rank == comm.size - 1 and source == 0:
            raise RuntimeError("no such distance")

    with pytest.raises(HpckitError, match="no such distance"):
        ring_map(comm, np.zeros(3), fail)


def test_bad_blocks(comm):
    with pytest.raises(ConfigError, match="C-contiguous"):
        ring_map(comm, np.zeros((4, 4)).T[::2], lambda *_: None)
    if comm.size > 1:
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            ring_map(comm, np.zeros((2, 2 + comm.rank % 2)), lambda *_: None)
