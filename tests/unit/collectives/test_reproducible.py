"""The same bits for every order of ranks and division of the data, and nearly the exact sum."""

import math
from fractions import Fraction

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives import Reproducible
from hpckit.collectives.algorithms.reproducible import between_nodes, on_one_node, reproducible_sum
from hpckit.collectives.allreduce import Allreduce
from hpckit.collectives.channel import Channel, empty
from hpckit.collectives.persistent import Operands
from hpckit.errors import ConfigError

INF, NAN, HUGE, TINY = np.inf, np.nan, np.finfo(float).max, 2.0**-1074


def data(seed, n, dtype=np.float64):
    """Signs, and magnitudes over fifty binary orders."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=n) * 2.0 ** rng.integers(-25, 25, n)).astype(dtype)


def exact(values):
    return np.array([math.fsum(column) for column in np.array(values, float).T])


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", [on_one_node, between_nodes])
def test_any_order_of_the_ranks_gives_the_same_bits(comm, dtype, way):
    channel, n = Channel.of(comm), 1100
    terms = [data(rank, n, dtype) for rank in range(comm.size)]
    seen, x = set(), np.empty(n, dtype)
    plan = way(Operands(channel, x, x, MPI.SUM))
    for turn in range(comm.size):
        for place in (comm.rank, -comm.rank):
            x[:] = terms[(place + turn) % comm.size]
            plan()
            seen.add(x.tobytes())
    seen = set().union(*comm.allgather(seen))
    assert len(seen) == 1
    error = np.abs(np.frombuffer(seen.pop(), dtype) - exact(terms))
    magnitudes = np.abs(np.array(terms, float))
    left_out = {4: 4 * comm.size**2 * 2.0**-52, 8: 8 * comm.size**3 * 2.0**-104}[
        np.dtype(dtype).itemsize
    ]
    assert (
        error
        <= 0.5 * np.spacing(np.abs(exact(terms)).astype(dtype)) + left_out * magnitudes.max(axis=0)
    ).all()
    if dtype == np.float64:
        assert (error <= 1e-15 * magnitudes.sum(axis=0)).all()


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16", "i4", "u1"])
def test_on_one_node_andbetween_nodes_the_bits_are_the_same(comm, dtype):
    dtype = np.dtype(dtype)
    for n in (0, 3, 2000):
        x = (
            data(comm.rank, 2 * n).view(complex)[:n]
            if dtype.kind == "c"
            else 10 * data(comm.rank, n)
        )
        x = (x if dtype.kind in "fc" else np.arange(n)).astype(dtype)
        window = empty(comm, n, dtype)
        strided = np.empty((n, 2), dtype)[:, 0]
        out = np.empty(n, dtype)
        window[:], strided[:] = x, x
        for source, target in ((window, None), (strided, None), (x, out)):
            plan = Allreduce(comm, source, out=target, algorithm=Reproducible())
            plan()
        if dtype.kind == "f":
            between_nodes(Operands(Channel.of(comm), x, x, MPI.SUM))()
        assert out.tobytes() == window.tobytes() == strided.tobytes()
        assert dtype.kind != "f" or out.tobytes() == x.tobytes()
    assert plan.algorithm == "reproducible" and "reproducible" in plan.explain()


@pytest.mark.mpi
@pytest.mark.parametrize("way", [on_one_node, between_nodes])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values_are_summed_as_ieee_says(comm, way, dtype):
    largest, least = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    first = np.array([0.0, INF, -INF, NAN, INF, largest, -largest, least, 1.0, INF, largest], dtype)
    others = np.array([0.0, 1.0, 1.0, 1.0, -INF, 0.0, 0.0, least, INF, largest, largest], dtype)
    p = comm.size
    x = (first if comm.rank == p - 1 else others).copy()
    way(Operands(Channel.of(comm), x, x, MPI.SUM))()
    if p == 1:
        np.testing.assert_array_equal(x, first)
        return
    result = [0.0, INF, -INF, NAN, NAN, largest, -largest, p * float(least), INF, INF, INF]
    np.testing.assert_array_equal(x, np.array(result).astype(dtype))


@pytest.mark.mpi
@pytest.mark.parametrize("way", [on_one_node, between_nodes])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_zeros_that_are_all_negative_give_minus_zero(comm, way, dtype):
    least = np.finfo(dtype).smallest_subnormal
    mine = [
        np.array([-0.0, 0.0, -0.0, -0.0 if rank else 0.0, -least if rank else least], dtype)
        for rank in (0, 1)
    ]
    x = mine[comm.rank % 2].copy()
    way(Operands(Channel.of(comm), x, x, MPI.SUM))()
    odd = comm.size % 2
    expected = np.array([-0.0, 0.0, -0.0, 0.0, odd * least], dtype)
    assert x.tobytes() == expected.tobytes()


@pytest.mark.mpi
def test_large_terms_that_cancel_do_not_overflow(comm):
    x = np.array([HUGE if comm.rank % 2 == 0 else -HUGE, 0.9 * HUGE, 1.0])
    if comm.rank > 1:
        x[:2] = 0
    elif comm.rank == 1:
        x[1] *= -1
    Allreduce(comm, x, algorithm=Reproducible())()
    np.testing.assert_array_equal(
        x, [0 if comm.size > 1 else HUGE, 0 if comm.size > 1 else 0.9 * HUGE, comm.size]
    )


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sum_of_an_array_is_exact_wherever_it_is_cut(comm, dtype):
    for n in (0, 1, 1023, 1025, 5000):
        whole = data(7, n, dtype)
        for seed in range(3):
            cuts = np.sort(np.random.default_rng(seed).integers(0, n + 1, comm.size - 1)).tolist()
            start, stop = [0, *cuts, n][comm.rank : comm.rank + 2]
            assert reproducible_sum(comm, whole[start:stop]) == math.fsum(whole.astype(float))
    assert reproducible_sum(comm, data(3, 4000, dtype).reshape(40, 100)[::3, ::-2]) == math.fsum(
        np.tile(data(3, 4000, dtype).reshape(40, 100)[::3, ::-2].astype(float).ravel(), comm.size)
    )


@pytest.mark.mpi
@pytest.mark.parametrize(
    "values",
    [
        [1e308, -5e307, 3.0, 1e-300, TINY],
        [TINY] * 7 + [-3 * TINY],
        [2.0**-1022, -TINY, 2.0**-1023, 2.0**-1030],
        [HUGE, HUGE, -HUGE],
        [HUGE, HUGE],
        [-HUGE, -HUGE],
        [2.0**1000, 1.0, -(2.0**1000)],
        [1.0, 2.0**-53, TINY],
        [1.0, 2.0**-53],
        [INF, 1.0],
        [-INF, HUGE],
        [INF, -INF],
        [NAN, 1.0],
        [-0.0],
    ],
)
def test_sums_at_the_limits(comm, values):
    mine = np.array(values[comm.rank :: comm.size])
    total = reproducible_sum(comm, mine)
    if np.isfinite(values).all():
        fraction = sum(map(Fraction, values))
        limit = Fraction(2) ** 1024 - Fraction(2) ** 970
        assert total == (
            float(fraction) if abs(fraction) < limit else INF if fraction > 0 else -INF
        )
    else:
        np.testing.assert_equal(total, sum(values))


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"op": MPI.MAX},
            "takes MPI.SUM of integers, float32, float64 .* not another operation of float64",
        ),
        ({"array": np.zeros(3, "f2")}, "not MPI.SUM of float16"),
    ],
)
def test_bad_arguments(comm, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Allreduce(comm, **{"array": np.zeros(3)} | arguments, algorithm=Reproducible())
    with pytest.raises(
        ConfigError, match="takes float32 or float64 in native byte order, not int64"
    ):
        reproducible_sum(comm, np.zeros(3, int))


EIGHT = """
import numpy as np
from mpi4py import MPI
from hpckit.collectives import Allreduce, Reproducible
from hpckit.collectives.algorithms.reproducible import reproducible_sum

world = MPI.COMM_WORLD
rng = np.random.default_rng(1)
whole = rng.normal(size=4001) * 2.0 ** rng.integers(-40, 40, 4001)
sums = set()
for size in range(1, 9):
    comm = world.Split(world.rank < size)
    if world.rank < size:
        start, stop = (len(whole) * rank // size for rank in (comm.rank, comm.rank + 1))
        sums.add(reproducible_sum(comm, whole[start:stop]))
bits = set()
for seed in range(6):
    order = np.random.default_rng(seed).permutation(8)
    x = np.random.default_rng(int(order[world.rank])).normal(size=1001)
    Allreduce(world, x, algorithm=Reproducible())()
    bits.add(x.tobytes())
sums, bits = (set().union(*world.allgather(found)) for found in (sums, bits))
if world.rank == 0:
    print(len(sums), len(bits))
"""


def test_eight_ranks(mpirun):
    job = mpirun(8, "-c", EIGHT)
    assert job.stdout.split() == ["1", "1"], job.stdout
