"""Reduce-scatter, allgather and broadcast against NumPy, on even and uneven slices."""

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives.halves import Allgather, Bcast, ReduceScatter
from hpckit.errors import ConfigError, HpckitError
from hpckit.watch import Watch

pytestmark = pytest.mark.mpi
ALGORITHMS = ("direct", "ring")


def uneven(n, size):
    """Rank 0 owns nothing where there are several, the last one most."""
    return [0, *(0 if r < size // 2 else n * r // (2 * size) for r in range(1, size)), n]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("even", [True, False])
def test_reduce_scatter_then_allgather_is_allreduce(comm, algorithm, even):
    for n in (0, 1, 5, 1003):
        cuts = None if even else uneven(n, comm.size)
        x = np.empty(n)
        scatter = ReduceScatter(comm, x, cuts=cuts, algorithm=algorithm)
        gather = Allgather(comm, x, cuts=cuts, algorithm=algorithm)
        total = sum(np.random.default_rng(rank).integers(0, 100, n) for rank in range(comm.size))
        assert even or (scatter.owned.start, scatter.owned.stop) == tuple(
            cuts[comm.rank : comm.rank + 2]
        )
        for _ in range(2):
            x[:] = np.random.default_rng(comm.rank).integers(0, 100, n)
            scatter()
            np.testing.assert_array_equal(x[scatter.owned], total[scatter.owned])
            x[: scatter.owned.start], x[scatter.owned.stop :] = -1, -1
            gather.start()
            while not gather.poll():
                pass
            np.testing.assert_array_equal(x, total)


def test_bcast_from_each_root_small_and_large(comm):
    for root in range(comm.size):
        for n in (0, 1, 7, 20000):
            x = np.arange(n) * (1.0 if comm.rank == root else -1.0)
            Bcast(comm, x, root=root)()
            np.testing.assert_array_equal(x, np.arange(n))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda comm: ReduceScatter(comm, np.zeros((2, 2))), "one-dimensional"),
        (lambda comm: ReduceScatter(comm, np.zeros(4), cuts=[0, 9]), "rising offsets from 0 to 4"),
        (
            lambda comm: ReduceScatter(comm, np.zeros(4), algorithm="tree"),
            "must be one of direct, ring",
        ),
        (
            lambda comm: ReduceScatter(comm, np.zeros(4, "F"), op=MPI.MAX),
            "not define this operation for complex64",
        ),
        (lambda comm: ReduceScatter(comm, [1, 2]), "got list"),
        (lambda comm: Allgather(comm, np.zeros(4)[::2]), "contiguous"),
        (lambda comm: Bcast(comm, np.zeros(4), root=comm.size), "must be a rank, 0 to"),
        (lambda comm: Bcast(comm, [1.0]), "got list"),
    ],
)
def test_bad_input(comm, make, message):
    with pytest.raises(ConfigError, match=message):
        make(comm)


@pytest.mark.parametrize("check", [False, True])
def test_halves_are_watched(comm, check):
    x = np.ones(7)
    with Watch(comm, check=check) as watched:
        scatter, gather, bcast = ReduceScatter(watched, x), Allgather(watched, x), Bcast(watched, x)
        assert scatter.poll()  # nothing has begun
        for plan in (scatter, gather):
            plan()
        assert (x == comm.size).all()
        bcast.start()
        while not bcast.poll():
            pass
        bcast.start()
        bcast.wait()
        report = watched.watch.report()
    for kind in ("reduce-scatter plan 1", "allgather plan 2", "bcast plan 3"):
        assert f"{kind} at test_halves.py:" in report


@pytest.mark.mpi(min_size=2)
def test_halves_that_do_not_match_raise_on_every_rank(comm):
    x = np.zeros(6)
    with Watch(comm, check=True) as watched:
        plans = [
            ReduceScatter(watched, x, op=MPI.MAX),
            Allgather(watched, x),
            Bcast(watched, x, root=1),
        ]
        for others in (1, 2):
            with pytest.raises(
                HpckitError, match="does not match, kind differs: rank 0: reduce-scatter plan 1"
            ) as error:
                plans[others if comm.rank else 0]()
            message = str(error.value)
            assert len(set(comm.allgather(message))) == 1
            assert ("allgather plan 2(6 float64)", "bcast plan 3(6 float64, root 1)")[
                others - 1
            ] in message
        plans[1]()  # all ranks may go on
