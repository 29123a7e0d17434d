"""What all searches promise: the same bits on any ranks and threads, few objects or many."""

from pathlib import Path

import numpy as np
import pytest
import reference

from hpckit.cluster import (
    alternate,
    clara,
    clarans,
    dynmsc,
    fastermsc,
    fasterpam,
    onebatch,
    pam,
)

SEARCHES = [fasterpam, pam, onebatch, clara, clarans, alternate, fastermsc, dynmsc]
# Ties, and objects that coincide.
LATTICE = np.random.default_rng(0).integers(0, 6, (40, 3)).astype(float)
WEIGHTS = np.random.default_rng(1).random(40)


@pytest.mark.mpi
@pytest.mark.parametrize(("n", "k"), [(2, 2), (5, 3), (40, 6)])
@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_the_same_bits(comm, search, n, k):
    options = {"metric": "euclidean", "random_state": 0, "sample_weight": WEIGHTS[:n]}
    alone = reference.digest(search(LATTICE[:n], k, **options))
    for threads in (1, 2):
        together = reference.digest(search(LATTICE[:n], k, **options, threads=threads, comm=comm))
        assert comm.allgather(together) == [alone] * comm.size


def test_seven_ranks(mpirun):
    """More than processors here, more than some data have objects, and nothing divides by 7."""
    result = mpirun(
        7,
        "-m",
        "pytest",
        "--with-mpi",
        "-q",
        __file__,
        "-k",
        "same_bits",
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == 0, result.stdout
