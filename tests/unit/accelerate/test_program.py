"""`python -m hpckit.accelerate`: scripts that know nothing of it."""

from __future__ import annotations

import pytest

SCRIPT = """
import sys
import numpy as np
from mpi4py import MPI
import neighbour

comm = MPI.COMM_WORLD
u = np.arange(60.0).reshape(6, 10) + 1000 * comm.rank
column = MPI.DOUBLE.Create_vector(6, 1, 10).Commit()
comm.Sendrecv([u, 1, column], 1 - comm.rank, 0, [u[0, 9:], 1, column], 1 - comm.rank)
mine = [type(each).__module__ for each in (comm, comm.Split(0), MPI.COMM_SELF)]
if comm.rank == 0:
    print(*mine, u[5, 9], __name__, *sys.argv[1:])
"""

PLANNED = """
import numpy as np
from mpi4py import MPI
from mpi4py.MPI import Prequest, Request
import hpckit

comm = MPI.COMM_WORLD
there, here = np.full((6, 10), comm.rank + 1.0), np.zeros((6, 10))
column = MPI.DOUBLE.Create_vector(6, 1, 10).Commit()
plan = [
    comm.Recv_init([here, 1, column], 1 - comm.rank),
    comm.Send_init([there, 1, column], 1 - comm.rank),
]
for _ in range(2):
    there *= 2.0
    Prequest.Startall(plan)
    Request.Waitall(plan)
grid = hpckit.Grid(comm, (8, 8), periodic=True)
u = grid.zeros()
u[:] = 9.0
u[grid.owned] = comm.rank
halo = hpckit.Halo(grid, fields=[u], corners=True, method="datatype")
for _ in range(2):
    halo.exchange(u)
for each in plan:
    each.Free()
if comm.rank == 0:
    print(type(plan[0]).__name__, *here[:, 0], here[:, 1:].any(), sorted({*u.ravel().tolist()}))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "neighbour.py").touch()
    return tmp_path


@pytest.mark.parametrize("how", [["{}/script.py"], ["-m", "script"]], ids=" ".join)
def test_a_script_runs_as_it_is(mpirun, folder, how):
    how = [word.format(folder) for word in how]
    result = mpirun(
        2, "-m", "hpckit.accelerate", "--method", "packed", *how, "--x", "1", cwd=folder
    )
    assert result.returncode == 0, result.stdout
    ours = "hpckit.accelerate.communicators"
    assert result.stdout.splitlines()[-1].split() == [*[ours] * 3, "1050.0", "__main__", "--x", "1"]


def test_persistent_requests_are_ours_and_so_are_lists_of_them(mpirun, folder):
    """Whoever imports MPI's classes after the start, hpckit too, gets functions that take both."""
    (folder / "script.py").write_text(PLANNED)
    result = mpirun(2, "-m", "hpckit.accelerate", "--method", "packed", "script.py", cwd=folder)
    assert result.returncode == 0, result.stdout
    expected = "Persistent 8.0 8.0 8.0 8.0 8.0 8.0 False [0.0, 1.0]"
    assert result.stdout.splitlines()[-1] == expected


def test_a_rank_that_fails_ends_the_job(mpirun, folder):
    (folder / "script.py").write_text(
        "from mpi4py import MPI\nif MPI.COMM_WORLD.rank: 1 / 0\nMPI.COMM_WORLD.Barrier()"
    )
    result = mpirun(2, "-m", "hpckit.accelerate", "--method", "packed", "script.py", cwd=folder)
    assert result.returncode != 0 and "ZeroDivisionError" in result.stdout


def test_a_script_that_is_not_there(mpirun):
    result = mpirun(None, "-m", "hpckit.accelerate", "nowhere.py")
    assert result.returncode == 2
    assert result.stdout.splitlines() == [
        "python -m hpckit.accelerate: there is no script nowhere.py"
    ]


def test_without_an_mpi_library(mpirun, folder):
    script = folder / "script.py"
    result = mpirun(None, "-m", "hpckit.accelerate", script, MPI4PY_LIBMPI="/nonexistent")
    assert result.returncode == 2 and "no MPI library was found" in result.stdout
