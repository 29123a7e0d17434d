"""Every algorithm, operation, dtype and awkward size, against results from all ranks' seeds."""

import os
from contextlib import suppress

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives import messages
from hpckit.collectives.algorithms import ALGORITHMS, native
from hpckit.collectives.allreduce import Allreduce, allreduce
from hpckit.collectives.channel import Channel
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine.node_memory import NodeMemory

pytestmark = pytest.mark.mpi
DTYPES = [np.dtype(code) for code in "?bBhHiIlLqQefdgFDG"]
OPERATIONS = {
    "SUM": (MPI.SUM, np.add),
    "PROD": (MPI.PROD, np.multiply),
    "MIN": (MPI.MIN, np.minimum),
    "MAX": (MPI.MAX, np.maximum),
    "LAND": (MPI.LAND, np.logical_and),
    "LOR": (MPI.LOR, np.logical_or),
}
COMPLEX, REAL = ("SUM", "PROD"), ("SUM", "PROD", "MIN", "MAX")
ALLOWED = {"?": ("LAND", "LOR")} | dict.fromkeys("FDG", COMPLEX) | dict.fromkeys("efdg", REAL)


def data(rank, n, dtype):
    """Small whole numbers: nothing of eight ranks rounds or overflows; truth is 0 and 1."""
    values = np.random.default_rng(rank).integers(0, 3 if dtype.kind == "f" else 2, n)
    return values.astype(dtype)


def expected(comm, n, dtype, ufunc):
    return ufunc.reduce([data(rank, n, dtype) for rank in range(comm.size)], axis=0).astype(dtype)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_types(comm, algorithm, name):
    op, ufunc = OPERATIONS[name]
    for dtype in (dtype for dtype in DTYPES if name in ALLOWED.get(dtype.char, OPERATIONS)):
        x = data(comm.rank, 37, dtype)
        Allreduce(comm, x, op=op, algorithm=algorithm)()
        np.testing.assert_array_equal(x, expected(comm, 37, dtype, ufunc), err_msg=str(dtype))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sizes_again_and_again(comm, algorithm):
    for n in (0, 1, 2, 3, 5, 64, 1000, 4099):
        check_twice(comm, algorithm, n)


def check_twice(comm, algorithm, n):
    """In place and out of place, blocking and polled."""
    result = expected(comm, n, np.dtype(float), np.add)
    mine = data(comm.rank, n, np.dtype(float))
    x, y, z = mine.copy(), np.empty(n), np.empty(n)
    plans = [
        Allreduce(comm, x, algorithm=algorithm),
        Allreduce(comm, z, out=y, algorithm=algorithm),
    ]
    for _ in range(2):
        x[:] = z[:] = mine
        for plan in plans:
            plan()
        assert (x == result).all() and (y == result).all() and (z == mine).all()
        x[:], y[:] = mine, -1
        for plan in plans:
            plan.start()
        while not (plans[1].poll() and plans[0].poll()):
            os.sched_yield()  # the others may need this core
        for plan in plans:
            plan.wait()
        assert (x == result).all() and (y == result).all() and (z == mine).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_counts_beyond_the_limit_of_one_call(comm, algorithm, monkeypatch):
    for module in (messages, native):
        monkeypatch.setattr(module, "LIMIT", 16)
    check_twice(comm, algorithm, 16 * comm.size)
    check_twice(comm, algorithm, 157)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_ranks_get_the_same_bits(comm, algorithm):
    x = np.random.default_rng(comm.rank).normal(size=1003)
    Allreduce(comm, x, algorithm=algorithm)()
    assert len(set(comm.allgather(x.tobytes()))) == 1


@pytest.mark.parametrize("algorithm", ["star", "oneshot", "twoshot"])
def test_direct_algorithms_reduce_in_rank_order(comm, algorithm):
    x = np.random.default_rng(comm.rank).normal(size=203)
    terms = comm.allgather(x)
    total = terms[-1]
    for term in terms[-2::-1]:
        total = term + total
    Allreduce(comm, x, algorithm=algorithm)()
    assert x.tobytes() == total.tobytes()


@pytest.mark.parametrize("algorithm", ["native", "star", "oneshot", "twoshot"])
def test_an_operation_that_does_not_commute(comm, algorithm):
    def compose(a, b, _):
        """x -> b1 x + b2 after x -> a1 x + a2, modulo a prime; operands as (factor, offset)."""
        a, b = (np.frombuffer(buffer, np.int64).reshape(-1, 2) for buffer in (a, b))
        b[:] = np.stack([a[:, 0] * b[:, 0], a[:, 1] * b[:, 0] + b[:, 1]], axis=1) % 10007

    op = MPI.Op.Create(compose, commute=False)
    maps = [np.array([3 + rank, 1 + 2 * rank]) for rank in range(comm.size)]
    result = maps[0].copy()
    for after in maps[1:]:
        result = np.array([result[0] * after[0], result[1] * after[0] + after[1]]) % 10007
    x = maps[comm.rank].copy()
    # Slices must not cut an operand in two: as one element of 16 bytes.
    Allreduce(comm, x, op=op, algorithm="oneshot" if algorithm == "twoshot" else algorithm)()
    np.testing.assert_array_equal(x, result)
    op.Free()


def test_commuting_algorithms_refuse_one_that_does_not(comm):
    op = MPI.Op.Create(lambda *_: None, commute=False)
    for algorithm in ("ring", "recursive_doubling", "rabenseifner", "tree", "hierarchical"):
        with pytest.raises(
            ConfigError, match="does not commute: use native, star, oneshot, twoshot, shared"
        ):
            Allreduce(comm, np.zeros(3), op=op, algorithm=algorithm)
    op.Free()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("out", ["in place", "contiguous", "strided"])
def test_any_memory_layout(comm, algorithm, out):
    whole = np.random.default_rng(comm.rank).integers(0, 9, (6, 8, 10)).astype(np.int64)
    for view in (
        whole[::2, 1:5, ::-3],
        whole.transpose(2, 0, 1),
        np.asfortranarray(whole),
        whole[3, 4, 5],
    ):
        x = np.asarray(view)
        before = whole.copy()
        result = comm.allreduce(x)
        if out == "in place":
            y = x.copy(order="K") if x.flags.forc else x
            target = None
        else:
            y = (
                np.empty_like(x)
                if out == "contiguous"
                else np.empty((*x.shape, 2), x.dtype)[..., 0]
            )
            target = y
        source = y if target is None else x
        kept = source.copy()
        Allreduce(comm, source, out=target, algorithm=algorithm)()
        np.testing.assert_array_equal(y, result)
        if target is None:
            source[...] = kept
        np.testing.assert_array_equal(whole, before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chunks_are_sent_as_they_are_ready(comm, algorithm):
    n = 1003
    x = np.zeros(n)
    plan = Allreduce(comm, x, algorithm=algorithm, chunks=4)
    assert [x[chunk].size for chunk in plan.chunks] == [251, 251, 251, 250]
    for repeat in range(3):
        mine = data(comm.rank + repeat, n, x.dtype)
        for i, chunk in enumerate(plan.chunks):
            x[chunk] = mine[chunk]
            plan.ready(i)
            plan.poll()
        with pytest.raises(HpckitError, match="chunk 2 is sent already"):
            plan.ready(2)
        plan.wait()
        np.testing.assert_array_equal(
            x, sum(data(rank + repeat, n, x.dtype) for rank in range(comm.size))
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"array": [1, 2]}, "take NumPy arrays of numbers in native byte order, got list"),
        ({"array": np.array(["a"])}, "got ndarray <U1"),
        ({"array": np.zeros(3, ">f8")}, "native byte order"),
        ({"out": np.zeros(4)}, r"out is float64 \(4,\), it must be like the array: float64 \(3,\)"),
        ({"out": np.zeros(3, "f4")}, "out is float32"),
        ({"algorithm": "pigeon"}, "algorithm 'pigeon' must be one of auto, native, ring"),
        ({"chunks": 0}, "chunks=0 must be"),
        ({"array": np.zeros((4, 4))[:, ::2], "chunks": 2}, "contiguous in memory"),
        ({"op": "sum"}, "op must be an MPI.Op"),
        (
            {"array": np.zeros(3, complex), "op": MPI.MAX},
            "does not define this operation for complex128",
        ),
    ],
)
def test_bad_input(comm, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Allreduce(comm, **{"array": np.zeros(3), "algorithm": "native"} | arguments)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "mine",
    [
        {"array": np.zeros(4)},
        {"array": np.zeros(3, "f4")},
        {"op": MPI.MAX},
        {"algorithm": "ring"},
        {"chunks": 2},
    ],
)
def test_ranks_that_disagree_fail_together(comm, mine):
    arguments = {"array": np.zeros(3), "algorithm": "native"} | (mine if comm.rank == 1 else {})
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        Allreduce(comm, **arguments)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_late_rank_is_named(comm, algorithm):
    x = np.ones(5)
    plan = Allreduce(comm, x, algorithm=algorithm, deadline=0.2)
    if comm.rank == 0:
        plan.start()
        with pytest.raises(
            HpckitError,
            match=r"waited 0\.2 s for .*rank|is late: waited 0\.2 s|allreduce waited 0\.2 s",
        ):
            plan.wait()
    comm.Barrier()
    if comm.rank:
        plan.start()
    while not completed(plan):
        os.sched_yield()


def completed(plan):
    """Whether it is, on a machine that may itself be late."""
    with suppress(HpckitError):
        return plan.poll()
    return False


def test_the_function_keeps_its_plans(comm):
    for repeat in range(3):
        for n in range(1, 20):
            x = np.full((n, 2), comm.rank + repeat)
            np.testing.assert_array_equal(
                allreduce(comm, x, algorithm="native"),
                comm.size * (comm.size - 1) // 2 + comm.size * repeat,
            )
            assert (x == comm.rank + repeat).all()
    assert len(Channel.of(comm).plans) == 16


@pytest.mark.parametrize("limit", [0, 1 << 21], ids=["none", "little"])
def test_without_shared_memory_sums_are_right_and_take_messages(comm, monkeypatch, limit):
    zeros = NodeMemory.zeros

    def short(self, shape, dtype=float):
        if max([np.dtype(dtype).itemsize * int(np.prod(shape))]) > limit:
            raise HpckitError("there is no room")
        return zeros(self, shape, dtype)

    monkeypatch.setattr(NodeMemory, "zeros", short)
    for n in (1, 1000, 400_000):
        total = allreduce(comm, np.full(n, comm.rank + 1.0))
        assert np.array_equal(total, np.full(n, comm.size * (comm.size + 1) / 2))
        plan = Allreduce(comm, array := np.full(n, comm.rank + 1.0))
        plan()
        assert np.array_equal(array, total)
        assert limit or plan.algorithm not in ("shared", "hierarchical")
    if not limit and comm.size > 1:  # one rank needs none
        with pytest.raises(HpckitError, match="there is no room"):
            Allreduce(comm, np.zeros(1000), algorithm="shared")()
