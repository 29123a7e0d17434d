"""Names that users choose by: read without MPI and NumPy, and all of them mean something."""

from __future__ import annotations

from typing import get_args

import pytest

from hpckit import names

READ = """
import sys, hpckit.names, hpckit.apps.allreduce.config, hpckit.apps.kmedoids.config
print(*{"mpi4py", "numpy"} & set(sys.modules), "end")
import hpckit.apps.halo.config
print(*{"mpi4py"} & set(sys.modules), "end")
"""


def test_they_are_read_without_mpi_and_numpy(mpirun):
    assert mpirun(None, "-c", READ).stdout.split() == ["end", "end"]


def test_all_of_them_mean_something():
    from hpckit import cluster
    from hpckit.collectives.algorithms import ALGORITHMS
    from hpckit.halo import METHODS
    from hpckit.io.outputs import OUTPUTS

    assert all(callable(getattr(cluster, name)) for name in names.SEARCHES)
    assert [*ALGORITHMS] == [*names.ALGORITHMS]
    assert [*METHODS] == ["auto", *names.HALO_METHODS]
    assert [*names.load(names.DEVICES)] == [*names.DEVICES]
    assert set(OUTPUTS) == set(get_args(names.Layout))


def test_one_that_calls_itself_otherwise_is_refused():
    with pytest.raises(ImportError, match=r"Ring calls itself 'ring', but .* 'torus'"):
        names.load({"torus": "hpckit.collectives.algorithms.ring:Ring"})
