"""The direct solver on a ring of cameras, beside NumPy."""

import numpy as np
import pytest
from ring_system import RingSystem

from hpckit.sfm.bundle.solvers.sparse import Sparse


@pytest.mark.parametrize("kind", [{}, {"shared": 3}, {"fixed": [(0, a) for a in range(7)]}])
def test_same_on_all_ranks(comm, kind):
    system = RingSystem(comm, cameras=20, **kind)
    assert Sparse().possible(system.shape) is None
    x, iterations = Sparse().bind(system).solve(0.1)
    expected = np.linalg.solve(system.dense, system.right)
    assert np.linalg.norm(x - expected) <= 1e-9 * np.linalg.norm(expected)
    assert iterations == 1
    assert len({x.tobytes() for x in comm.allgather(x)}) == 1


def test_failed_factorisation_is_none(comm):
    system = RingSystem(comm)
    solution = Sparse().bind(system)
    system.damping = system.damping - 2 * np.diag(system.dense)
    assert solution.solve(0.1) is None
    system.damping = np.full(system.shape.size, np.nan)
    assert solution.solve(0.1) is None


def test_too_many_blocks(comm):
    shape = RingSystem(comm).shape._replace(blocks=40_000)
    assert "40000" in Sparse().possible(shape)
