import numpy as np
import pytest

from hpckit.comm.gather import Gather
from hpckit.comm.grid import Grid


@pytest.mark.parametrize("shape", [(13,), (7, 9), (5, 6, 7)])
def test_a_field_comes_together_on_rank_0(comm, shape):
    grid = Grid(comm, shape)
    gather = Gather(grid, np.float32)
    for again in (1, 2):
        whole = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) * again
        found = gather(whole[tuple(map(slice, grid.start, grid.stop))])
        assert (found is None) == (comm.rank > 0)
        if found is not None:
            assert np.array_equal(found, whole)
