"""Two levels and PETSc on a ring of cameras, beside NumPy."""

import numpy as np
import pytest
from ring_system import RingSystem

from hpckit.errors import ConfigError
from hpckit.sfm.bundle.solvers.clusters import clusters
from hpckit.sfm.bundle.solvers.petsc import Petsc
from hpckit.sfm.bundle.solvers.two_level import CoarseSpace, TwoLevel

KINDS = [{}, {"shared": 3}, {"fixed": [(0, a) for a in range(9)]}, {"fixed": [(7, 3), (60, 8)]}]


def block_diagonal_inverse(system):
    """Of each camera's own unknowns, and of those that all share: of the latter without what is
    between cameras, as Schur-Jacobi has it.
    """
    group = system.layout.group
    matrix = np.diag(system.damping)
    for block, tile in zip(system.columns, system.diagonal(), strict=True):
        there = block >= 0
        matrix[np.ix_(block[there], block[there])] += tile[np.ix_(there, there)]
    return np.linalg.inv(np.where(group[:, None] == group, matrix, 0.0))


def jacobi_iterations(system, tolerance):
    """Of conjugate gradients with inverse diagonal blocks, to that residual in their norm."""
    M = block_diagonal_inverse(system)
    x, r = np.zeros_like(system.right), system.right.copy()
    p, rz = np.zeros_like(r), 1.0
    for iteration in range(2000):
        z = M @ r
        before, rz = rz, r @ z
        if rz <= tolerance**2 * (system.right @ M @ system.right):
            return iteration
        p = z + rz / before * p if iteration else z
        step = rz / (p @ system.dense @ p)
        x += step * p
        r -= step * (system.dense @ p)
    return 2000


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_space_is_what_it_says(comm, kind):
    system = RingSystem(comm, cameras=64, points=200, **kind)
    coarse = CoarseSpace(system)
    coarse.update()
    z = coarse.z.toarray()
    np.testing.assert_allclose(
        coarse.sz.toarray(), system.dense @ z, rtol=0, atol=1e-12 * np.abs(system.dense).max()
    )
    r = np.random.default_rng(1).standard_normal(system.shape.size)
    x = coarse.z @ coarse.solve(coarse.z.T @ r)
    scale = np.abs(z).T @ np.abs(r)
    assert (np.abs(z.T @ (r - system.dense @ x)) <= 1e-6 * scale).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-8])
def test_two_level_solves(comm, kind, tolerance):
    system = RingSystem(comm, cameras=64, points=200, **kind)
    assert TwoLevel().possible(system.shape) is None
    x, iterations = TwoLevel().bind(system).solve(tolerance)
    assert 0 < iterations < 500
    M = block_diagonal_inverse(system)
    r, b = system.right - system.dense @ x, system.right
    assert r @ M @ r <= 1.01 * tolerance**2 * (b @ M @ b)
    assert len({x.tobytes() for x in comm.allgather(x)}) == 1


def test_three_times_fewer_iterations(comm):
    system = RingSystem(comm, cameras=80, points=300, damping=1e-5)
    _, iterations = TwoLevel().bind(system).solve(1e-6)
    assert 3 * iterations <= jacobi_iterations(system, 1e-6)


def test_indefinite_is_none(comm):
    system = RingSystem(comm, cameras=64)
    solution = TwoLevel().bind(system)
    system.damping = system.damping - 0.5 * np.diag(system.dense)
    assert solution.solve(1e-2) is None


def test_where_two_levels_make_no_sense(comm):
    shape = RingSystem(comm).shape
    assert "16" in TwoLevel().possible(shape)
    assert "poses" in TwoLevel().possible(shape._replace(eliminated_width=6))


@pytest.mark.parametrize("size", [1, 3, 16])
def test_clusters_of_a_loop_are_arcs(size):
    n = 96
    ring = np.array([[i, (i + s) % n] for i in range(n) for s in (1, 2)])
    found = clusters(ring, n, size)
    assert set(found) == set(range(found.max() + 1))
    counts = np.bincount(found)
    assert counts.max() <= size
    assert counts.min() >= size // 2
    assert (found != np.roll(found, 1)).sum() <= 2 * len(counts)


def test_clusters_of_two_components():
    found = clusters(np.array([[0, 2], [2, 4], [1, 3]]), 5, 3)
    assert found[0] == found[2]
    assert found[1] == found[3]
    assert found[0] != found[1]


@pytest.fixture
def petsc():
    reason = Petsc().possible(None)
    if reason:
        pytest.skip(reason)


@pytest.mark.usefixtures("petsc")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ["", "-ksp_type preonly -pc_type cholesky"])
def test_petsc_solves(comm, kind, options):
    system = RingSystem(comm, cameras=64, points=200, **kind)
    x, iterations = Petsc(options).bind(system).solve(1e-6)
    rest = np.linalg.norm(system.dense @ x - system.right)
    assert rest <= 1.01e-6 * np.linalg.norm(system.right)
    assert (iterations == 1) == bool(options)


@pytest.mark.usefixtures("petsc")
def test_petsc_on_few_cameras_and_what_it_cannot_do(comm):
    system = RingSystem(comm)
    x, _ = Petsc("-ksp_max_it 400").bind(system).solve(1e-6)
    assert np.linalg.norm(system.dense @ x - system.right) <= 1.01e-6 * np.linalg.norm(system.right)
    with pytest.raises(ConfigError, match="-ksp_tpye"):
        Petsc("-ksp_tpye cg").bind(system)
    solution = Petsc().bind(system)
    system.damping = system.damping - 0.9 * np.diag(system.dense)
    assert solution.solve(1e-2) is None
