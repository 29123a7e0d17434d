"""Allreduce in a node's memory: kernels against NumPy, protocols against sums of every rank."""

import functools
import itertools
import time

import numpy as np
import pytest
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.algorithms import shared
from hpckit.collectives.algorithms.shared import SharedReduction
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Operands
from hpckit.errors import HpckitError
from hpckit.machine import spin

UFUNCS = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "land": np.logical_and,
    "lor": np.logical_or,
}
KERNELS = [
    *(
        f"{name}_{kind}"
        for name in ("sum", "prod")
        for kind in ("i1", "i2", "i4", "i8", "f2", "f4", "f8")
    ),
    *(
        f"{name}_{kind}"
        for name in ("min", "max")
        for kind in ("i1", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    ),
    *(f"{name}_{kind}" for name in ("land", "lor") for kind in ("i1", "i2", "i4", "i8")),
    *("prod_c8", "prod_c16"),
]


def values(seed: int, n: int, dtype) -> np.ndarray:
    """Integers, half of them zero; floats of both signs, whole ones where complex, and NaN."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, n, dtype, endpoint=True) * rng.integers(
            0, 2, n, dtype
        )
    result = rng.normal(size=n) if dtype.kind == "f" else rng.integers(-9, 9, (n, 2)) @ [1, 1j]
    result[rng.random(n) < 0.1] = np.nan
    return result.astype(dtype)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("target", [0, 1, 2, 3])
def test_kernels(name, target):
    """Of one to three arrays, into one of them or elsewhere; lengths that end within a register."""
    operation, dtype = name.split("_")
    kernel = getattr(native.load("hpckit.collectives.kernels.shared"), name)
    for n, ranks in itertools.product((0, 1, 5, 64, 67, 203), (1, 2, 3)):
        arrays = [values(seed, n, dtype) for seed in range(4)]
        expected = combined(UFUNCS[operation], arrays[:ranks])
        pointers = np.array([native.address(x) for x in arrays])
        kernel(pointers[target], native.address(pointers), ranks, 0, arrays[0].nbytes)
        np.testing.assert_array_equal(arrays[target], expected)


def combined(ufunc: np.ufunc, arrays: list[np.ndarray]) -> np.ndarray:
    """In their order, half precision rounded at the end."""
    dtype = arrays[0].dtype
    wide = np.float32 if dtype == np.float16 else dtype
    with np.errstate(all="ignore"):
        return functools.reduce(
            lambda a, b: ufunc(a, b).astype(wide), [x.astype(wide) for x in arrays]
        ).astype(dtype)


# -- protocols

SIZES = (0, 1, 9, 130, 4099)
WHERE = {"slots": "foreign", "direct": "window", "staged": "foreign"}


@pytest.fixture(params=WHERE)
def protocol(request, monkeypatch):
    """Each protocol at all sizes, with pieces of some cache lines."""
    monkeypatch.setattr(
        shared, "_SMALL", dict.fromkeys((True, False), 10**9 if request.param == "slots" else -1)
    )
    monkeypatch.setattr(shared, "_PIECES", 5000)
    return request.param


def array(channel: Channel, n: int, protocol: str, dtype=float) -> np.ndarray:
    return channel.node.zeros((n,), dtype) if WHERE[protocol] == "window" else np.zeros(n, dtype)


def own(rank: int, turn: int, n: int, dtype=float) -> np.ndarray:
    return np.random.default_rng([rank, turn]).normal(size=n).astype(dtype)


def total(size: int, turn: int, n: int, dtype=float) -> np.ndarray:
    return combined(np.add, [own(rank, turn, n, dtype) for rank in range(size)])


@pytest.mark.parametrize("in_place", [True, False])
def test_sums_have_the_bits_of_rank_order(comm, protocol, in_place):
    channel = Channel.of(comm)
    for n, dtype in [*((n, "f8") for n in SIZES), (500, "f2"), (501, "f4"), (333, "c16")]:
        x = array(channel, n, protocol, dtype)
        y = x if in_place else array(channel, n, protocol, dtype)
        way = SharedReduction(Operands(channel, x, y, MPI.SUM))
        assert way.protocol == protocol
        for turn in range(3):
            x[:] = mine = own(comm.rank, turn, n, dtype)
            way()
            np.testing.assert_array_equal(y, total(comm.size, turn, n, dtype))
            assert in_place or (x == mine).all()


def test_many_in_flight(comm, protocol):
    """Waited for in another order, polled and not; arrays begin anywhere in their windows."""
    channel, n = Channel.of(comm), 3000
    memory = array(channel, 4 * n, protocol)
    parts = [memory[i * n + comm.rank : (i + 1) * n + comm.rank - 9] for i in range(3)]
    ways = [SharedReduction(Operands(channel, x, x, MPI.SUM)) for x in parts]
    for turn in range(4):
        for i, (x, way) in enumerate(zip(parts, ways, strict=True)):
            x[:] = own(comm.rank, 10 * turn + i, x.size)
            way.start()
        while turn % 2 and not ways[2].poll():
            pass
        for i in (2, 0, 1):
            ways[i].wait()
            np.testing.assert_array_equal(parts[i], total(comm.size, 10 * turn + i, parts[i].size))


def test_one_rank_far_ahead(comm, protocol):
    """Nothing that a slow rank still reads is overwritten."""
    channel, n = Channel.of(comm), 500
    x = array(channel, n, protocol)
    way = SharedReduction(Operands(channel, x, x, MPI.SUM))
    for turn in range(12):
        x[:] = own(comm.rank, turn, n)
        if turn % comm.size == comm.rank:
            time.sleep(0.003)
        way()
        np.testing.assert_array_equal(x, total(comm.size, turn, n))


def test_operations_of_the_user(comm, protocol):
    """An operation that does not commute: of two numbers, the left one unless it is negative."""

    def left(a, b, datatype):
        a, b = np.frombuffer(a, float), np.frombuffer(b, float)
        b[:] = np.where(a < 0, b, a)

    op = MPI.Op.Create(left, commute=False)
    channel = Channel.of(comm)
    for n in (1, 1000):
        x, y = array(channel, n, protocol), array(channel, n, protocol)
        for way, result in (
            (SharedReduction(Operands(channel, x, y, op)), y),
            (SharedReduction(Operands(channel, x, x, op)), x),
        ):
            for steps in (way, None):
                x[:] = np.where(np.arange(n) % comm.size > comm.rank, -1, comm.rank)
                if steps:
                    way()
                else:
                    way.start()
                    way.wait()
                np.testing.assert_array_equal(result, np.arange(n) % comm.size)
    op.Free()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("owners", [1, 2, None])
def test_halves(comm, protocol, in_place, owners):
    """What happens to the slices in between, on fewer owners than ranks too, reaches everyone."""
    if protocol == "slots":
        protocol = "direct"
    channel, n = Channel.of(comm), 2500
    owners = min(owners or comm.size, comm.size)
    cuts = [n * i // owners for i in range(owners + 1)]
    x = array(channel, n, protocol)
    y = x if in_place else array(channel, n, protocol)
    way = SharedReduction(Operands(channel, x, y, MPI.SUM), cuts)
    assert way.protocol == protocol and (way.owned.stop > way.owned.start) == (comm.rank < owners)
    for turn in range(3):
        x[:] = own(comm.rank, turn, n)
        expected = total(comm.size, turn, n)
        way.reduce_scatter()
        np.testing.assert_array_equal(y[way.owned], expected[way.owned])
        y[way.owned] *= comm.rank + 2
        way.allgather.start()
        while not way.allgather.poll():
            pass
        np.testing.assert_array_equal(
            y, expected * (np.searchsorted(cuts, np.arange(n), "right") + 1)
        )
        x[:] = own(comm.rank, turn, n)
        way()
        np.testing.assert_array_equal(y, expected)


def test_arrays_in_windows_of_other_ranks_only(comm):
    """One foreign array, or arrays of different windows: all ranks take the same protocol."""
    channel, n = Channel.of(comm), 5000
    a, b = channel.node.zeros((n,)), channel.node.zeros((n,))
    lonely = np.zeros(n) if comm.rank == 0 else a
    crossed = a if comm.rank % 2 else b
    for x in (lonely, crossed):
        way = SharedReduction(Operands(channel, x, x, MPI.SUM))
        assert way.protocol == ("staged" if comm.size > 1 or x is lonely else "direct")
        x[:] = own(comm.rank, 0, n)
        way()
        np.testing.assert_array_equal(x, total(comm.size, 0, n))


# -- waiting


def test_pending_message(comm, protocol):
    """The others come after a message that needs rank 0, which waits, to let MPI progress."""
    channel, n = Channel.of(comm), 100
    x, message = array(channel, n, protocol), np.zeros(comm.size)
    way = SharedReduction(Operands(channel, x, x, MPI.SUM))
    x[:] = own(comm.rank, 0, n)
    if comm.rank > 0:
        comm.Ssend(np.array([7.0]), 0)
    pending = [comm.Irecv(message[rank:], rank) for rank in range(1, comm.size) if comm.rank == 0]
    way()
    MPI.Request.Waitall(pending)
    assert comm.rank or (message[1:] == 7).all()
    np.testing.assert_array_equal(x, total(comm.size, 0, n))


@pytest.mark.parametrize("polled", [True, False])
def test_late_rank_is_named(comm, protocol, polled):
    channel, last = Channel.of(comm), comm.size - 1
    x = array(channel, 100, protocol)
    way = SharedReduction(Operands(channel, x, x, MPI.SUM, deadline=0.1))
    time.sleep(0.1)  # time before the start does not count

    def poll() -> None:
        while not way.poll():
            pass

    def first() -> None:
        way.start()
        poll()

    wait, again = (first, poll) if polled else (way, way.wait)
    while comm.rank < last:
        began = time.monotonic()
        with pytest.raises(
            HpckitError, match=r"rank \d is late: waited 0.1 s for it in an allreduce"
        ) as error:
            wait()
        # Others may be late too, on a busy machine, but come.
        if f"rank {last} is late" in str(error.value):
            assert time.monotonic() > began + 0.1 or wait is poll
            break
        wait = again
    comm.Barrier()


def test_dead_rank_is_named(comm, protocol, monkeypatch):
    channel, last = Channel.of(comm), comm.size - 1
    x = array(channel, 100, protocol)
    way = SharedReduction(Operands(channel, x, x, MPI.SUM))
    monkeypatch.setattr(spin, "_INTERVAL", 0)
    dead = comm.bcast(way._turn.watch._processes[last])
    monkeypatch.setattr(spin, "_alive", lambda process: process != dead)
    if comm.rank < last:
        with pytest.raises(HpckitError, match=rf"rank {last} \(process {dead} on this node\) died"):
            way()
    comm.Barrier()
