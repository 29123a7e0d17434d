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
