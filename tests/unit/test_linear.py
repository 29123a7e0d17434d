import sys

import numpy as np
import pytest

from hpckit import linear
from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError

pytestmark = pytest.mark.mpi

CROSS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]


@pytest.mark.parametrize("shape", [(7,), (5, 6), (5, 4, 7)])
@pytest.mark.parametrize("periodic", [False, True])
def test_rows_are_numbered_rank_by_rank_and_ghosts_alike(comm, shape, periodic):
    grid = Grid(comm, shape, periodic=periodic)
    rows = linear.numbering(grid)
    owned = rows[(slice(1, -1),) * grid.ndim]
    first = comm.exscan(owned.size) or 0
    assert np.array_equal(owned.ravel(), np.arange(first, first + owned.size))
    whole = np.empty(shape, np.int64)
    for start, block in comm.allgather((grid.start, owned)):
        whole[tuple(slice(a, a + n) for a, n in zip(start, block.shape, strict=True))] = block
    around = (
        np.pad(whole, 1, mode="wrap" if periodic else "constant", constant_values=-1)
        if not periodic
        else np.pad(whole, 1, mode="wrap")
    )
    mine = tuple(slice(a, b + 2) for a, b in zip(grid.start, grid.stop, strict=True))
    assert np.array_equal(rows, around[mine])


def test_stencil_leaves_out_what_lies_over_the_border(comm):
    grid = Grid(comm, (4, 5))
    pointers, columns, entries = linear.stencil(
        grid, CROSS, [np.full(grid.owned_shape(), 4.0), -1, -1, -1, -1]
    )
    assert pointers[-1] == columns.size == entries.size
    assert comm.allreduce(columns.size) == 20 + 2 * (3 * 5 + 4 * 4)
    assert columns.min() >= 0
    assert (
        entries[columns == np.repeat(linear.numbering(grid)[1:-1, 1:-1].ravel(), np.diff(pointers))]
        == 4
    ).all()


def test_a_periodic_dimension_of_two_cells(comm):
    if comm.size <= 2:
        with pytest.raises(ConfigError, match="a periodic dimension needs 3 cells"):
            linear.stencil(Grid(comm, (2,), periodic=True), [(0,), (1,)], [1, 1])


def test_solves_what_numpy_solves(comm, petsc):
    shape = (6, 7)
    grid, whole = Grid(comm, shape), np.random.default_rng(1).random(shape)
    here = tuple(map(slice, grid.start, grid.stop))
    system = linear.System(grid, CROSS, [4.5, -1, -1, -1, -1])
    second = [np.eye(n, k=1) + np.eye(n, k=-1) for n in shape]
    matrix = 4.5 * np.eye(42) - np.kron(second[0], np.eye(7)) - np.kron(np.eye(6), second[1])
    x = np.zeros(grid.local_shape)[grid.owned]  # strided
    for scale in (1.0, 2.0):
        system.rhs[...] = scale * whole[here]
        assert system.solve(x, x) > 0
        expected = np.linalg.solve(matrix, scale * whole.ravel()).reshape(shape)[here]
        assert np.allclose(x, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-ksp_tpye cg", "PETSc does not know the option -ksp_tpye"),
        ("fast -pc_type jacobi", "'fast' must follow an option"),
        ("-ksp_rtol 1 2", "'2' must follow an option"),
    ],
)
def test_wrong_options(comm, petsc, options, message):
    with pytest.raises(ConfigError, match=message):
        linear.System(Grid(comm, (4, 4)), CROSS, [5, -1, -1, -1, -1], options)


SOLVED_BY_ONE = """
from mpi4py import MPI
from hpckit import Grid
from hpckit.linear import System
if MPI.COMM_WORLD.rank == 1:
    system = System(Grid(MPI.COMM_SELF, (4,)), [(0,)], [2.0])
    system.rhs[...] = 1.0
    x = system.rhs.copy()
    system.solve(x, x)
    print(x)
"""


@pytest.mark.usefixtures("petsc")
def test_a_rank_may_solve_alone(mpirun):
    done = mpirun(2, "-c", SOLVED_BY_ONE)  # PETSc begins and ends on one rank only
    assert (done.returncode, done.stdout) == (0, "[0.5 0.5 0.5 0.5]\n")


def test_says_how_to_get_petsc(comm, monkeypatch):
    monkeypatch.setitem(sys.modules, "petsc4py", None)
    with pytest.raises(ConfigError, match=r"need petsc4py .*pip install 'hpckit\[mpich,petsc\]'"):
        linear.System(Grid(comm, (4, 4)), CROSS, [5, -1, -1, -1, -1])
