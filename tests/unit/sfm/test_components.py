"""Components over ranks are SciPy's of all pairs at once."""

import numpy as np
import pytest
from mpi4py import MPI
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hpckit.comm.partition import block
from hpckit.sfm.components import by_pairs, by_points


def _scipy(pairs, n):
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (n, n))
    label = connected_components(graph, directed=False)[1]
    parts = [np.flatnonzero(label == each).tolist() for each in np.unique(label)]
    return sorted(parts, key=lambda part: (-len(part), part[0]))


@pytest.mark.mpi
@pytest.mark.parametrize(("n", "m"), [(1, 0), (2, 0), (40, 25), (40, 400), (500, 450)])
def test_by_pairs_and_by_points(comm, n, m):
    rng = np.random.default_rng([n, m])
    pairs = rng.integers(0, n, (m, 2))
    if (n, m) == (500, 450):
        pairs = np.stack([np.arange(450), np.arange(1, 451)], axis=1)[rng.permutation(450)]
    wanted = _scipy(pairs, n)
    mine = pairs[slice(*block(m, comm.size, comm.rank))]
    assert [part.tolist() for part in by_pairs(comm, mine, n)] == wanted
    start = 2 * np.arange(len(mine) + 1)  # a point for each pair
    assert [part.tolist() for part in by_points(comm, start, mine.ravel(), n)] == wanted


def test_points_without_observations_join_nothing():
    start, image = np.array([0, 0, 2, 2, 3, 3]), np.array([1, 2, 0], np.int32)
    parts = by_points(MPI.COMM_SELF, start, image, 4)
    assert [part.tolist() for part in parts] == [[1, 2], [0], [3]]
