"""Allreduce of arrays on a device, on the stand-in: the same numbers, semantics and refusals."""

import gc
import os

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit import native
from hpckit.collectives import Allreduce, allreduce
from hpckit.collectives.algorithms import DEVICE_ALGORITHMS, pipelined
from hpckit.collectives.folds import fold_kernel
from hpckit.collectives.reduction import defined
from hpckit.comm import device_array
from hpckit.comm.stand_in import StandIn, census
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine import lifetime
from hpckit.watch import Watch

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
ALGORITHMS = [*DEVICE_ALGORITHMS, "native", "ring", "shared", "twoshot"]
DTYPES = [np.dtype(code) for code in "?bBhHiIlLefdgFD"]


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


def on(device, values):
    """An array on the device that has these values, and the order in memory of theirs."""
    order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
    array = device_array.empty(device, values.shape, values.dtype, order)
    array.set(values)
    return array


def data(rank, n, dtype=float):
    """Small whole numbers: nothing of eight ranks rounds or overflows; truth is 0 and 1."""
    dtype = np.dtype(dtype)
    values = np.random.default_rng(rank).integers(0, 3 if dtype.kind == "f" else 2, n)
    return values.astype(dtype)


def total(comm, n, dtype=float, ufunc=np.add):
    return ufunc.reduce([data(rank, n, dtype) for rank in range(comm.size)], axis=0).astype(dtype)


UFUNCS = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "LAND": np.logical_and,
    "LOR": np.logical_or,
    "LXOR": np.logical_xor,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
}


@pytest.mark.parametrize("algorithm", [*DEVICE_ALGORITHMS, "native"])
def test_kernels_get_aligned_elements(comm, device, algorithm, monkeypatch):
    """Between others, of odd bytes: GPUs cannot load them, CPUs can."""
    tables = []
    folds = pipelined.Folds

    def seen(device, op, dtype, rows, stream):
        tables.append(rows)
        return folds(device, op, dtype, rows, stream)

    monkeypatch.setattr(pipelined, "Folds", seen)
    memory = on(device, np.zeros(8 * 37 + 1, np.uint8))
    shadow = memory.shadow[1:].view(float)
    x = device_array.DeviceArray(device, memory.memory, shadow)
    x.set(data(comm.rank, 37))
    Allreduce(comm, x, algorithm=algorithm)()
    np.testing.assert_array_equal(x.get(), total(comm, 37))
    assert not any((rows % 8).any() for rows in tables)


@pytest.mark.parametrize("algorithm", [*DEVICE_ALGORITHMS, "native"])
@pytest.mark.parametrize("name", UFUNCS)
def test_operations_and_types(comm, device, algorithm, name):
    op = getattr(MPI, name)
    for dtype in (dtype for dtype in DTYPES if name in defined(dtype)):
        x = on(device, data(comm.rank, 37, dtype))
        if algorithm in DEVICE_ALGORITHMS and not has_kernel(op, dtype):
            with pytest.raises(ConfigError, match=f"no kernel for MPI.{name} of {dtype}"):
                Allreduce(comm, x, op=op, algorithm=algorithm)
            continue
        Allreduce(comm, x, op=op, algorithm=algorithm)()
        expected = total(comm, 37, dtype, UFUNCS[name])
        np.testing.assert_array_equal(x.get(), expected, err_msg=str(dtype))


def has_kernel(op, dtype):
    try:
        fold_kernel(op, dtype)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("dtype", ["i2", "f2", "g"])
def test_what_has_no_kernel_is_reduced_by_the_host(comm, device, dtype):
    x = on(device, data(comm.rank, 37, dtype))
    plan = Allreduce(comm, x)
    plan()
    assert not {*DEVICE_ALGORITHMS} & {*plan.explain().split()}
    np.testing.assert_array_equal(x.get(), total(comm, 37, dtype))


@pytest.mark.parametrize("piece", [256, 1 << 20])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sizes_again_and_again(comm, device, algorithm, piece, monkeypatch):
    monkeypatch.setattr(pipelined, "_PIECE", piece)
    for n in (0, 1, 2, 3, 5, 64, 1000, 4099):
        check_twice(comm, device, algorithm, n)


def check_twice(comm, device, algorithm, n):
    """In place and out of place, blocking and polled."""
    result, mine = total(comm, n), data(comm.rank, n)
    x, y, z = on(device, mine), on(device, mine), on(device, mine)
    plans = [
        Allreduce(comm, x, algorithm=algorithm),
        Allreduce(comm, z, out=y, algorithm=algorithm),
    ]
    for _ in range(2):
        x.set(mine), z.set(mine), y.set(-1)
        for plan in plans:
            plan()
        assert all_equal((x, result), (y, result), (z, mine))
        x.set(mine), y.set(-1)
        for plan in plans:
            plan.start()
        while not (plans[1].poll() and plans[0].poll()):
            os.sched_yield()  # the others may need this core
        for plan in plans:
            plan.wait()
        assert all_equal((x, result), (y, result), (z, mine))


def all_equal(*pairs):
    return all((array.get() == expected).all() for array, expected in pairs)


@pytest.mark.parametrize("algorithm", [*DEVICE_ALGORITHMS, "shared"])
def test_the_bits_are_those_of_the_host_in_rank_order(comm, device, algorithm, monkeypatch):
    monkeypatch.setattr(pipelined, "_PIECE", 1024)
    for dtype in ("f4", "f8", "c8", "c16"):
        for op in (MPI.SUM, MPI.PROD) if dtype in ("f4", "f8") else (MPI.SUM,):
            mine = np.random.default_rng(comm.rank).normal(size=(2003, 2)).astype(dtype)[:, 0]
            mine[::7], mine[::11] = np.nan, -0.0
            here, there = mine.copy(), on(device, mine)
            Allreduce(comm, here, op=op, algorithm="shared")()
            Allreduce(comm, there, op=op, algorithm=algorithm)()
            assert there.get().tobytes() == here.tobytes()


@pytest.mark.parametrize("algorithm", ["auto", "peer", "pipelined", "ring"])
def test_strided_arrays(comm, device, algorithm):
    base = np.arange(48.0).reshape(4, 12) + comm.rank
    summed = comm.size * np.arange(48.0).reshape(4, 12) + sum(range(comm.size))
    for index in (np.s_[:, ::2], np.s_[1::2, ::-3], np.s_[::-1, 3], np.s_[2, 3:4]):
        x, expected = on(device, base), base.copy()
        expected[index] = summed[index]
        Allreduce(comm, x[index], algorithm=algorithm)()
        np.testing.assert_array_equal(x.get(), expected)
        x, y = on(device, base), on(device, base)
        Allreduce(comm, x[index], out=y[index], algorithm=algorithm)()
        np.testing.assert_array_equal(y.get(), expected)
        np.testing.assert_array_equal(x.get(), base)
    columns = np.asfortranarray(base)
    x = on(device, columns)
    Allreduce(comm, x, algorithm=algorithm)()
    np.testing.assert_array_equal(x.get(), summed)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chunks_travel_in_the_order_in_which_they_are_ready(comm, device, algorithm):
    mine = data(comm.rank, 1000)
    x = on(device, np.full(1000, -1.0))
    plan = Allreduce(comm, x, algorithm=algorithm, chunks=4)
    for _ in range(2):
        x.set(-1)
        for chunk in (2, 0, 3, 1):
            x[plan.chunks[chunk]].set(mine[plan.chunks[chunk]])
            plan.ready(chunk)
        plan.wait()
        np.testing.assert_array_equal(x.get(), total(comm, 1000))


@pytest.mark.parametrize("algorithm", DEVICE_ALGORITHMS)
def test_ranks_may_begin_chunks_in_any_order(comm, device, algorithm):
    x = on(device, data(comm.rank, 999))
    plan = Allreduce(comm, x, algorithm=algorithm, chunks=3)
    for chunk in np.roll(range(3), comm.rank):
        plan.ready(int(chunk))
    plan.wait()
    np.testing.assert_array_equal(x.get(), total(comm, 999))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_call_comes_after_earlier_work_and_before_later_work_on_its_stream(
    comm, device, algorithm
):
    """Nobody synchronises in between."""
    mine, n = data(comm.rank, 500), 500 * 8
    given, result = device.pinned(n), device.pinned(n)
    given.host.view(float)[:] = mine
    for stream in (None, device.stream()):
        x = on(device, np.zeros(500))
        at = native.address(x.shadow)
        queue = stream or device.default_stream
        plan = Allreduce(comm, x, algorithm=algorithm, stream=stream)
        device.copy(at, given.address, n, queue)
        plan()
        device.copy(result.address, at, n, queue)
        device.synchronize(queue)
        np.testing.assert_array_equal(result.host.view(float), total(comm, 500))


class Foreign:
    """What another library's array says of itself, on a stream of its own."""

    def __init__(self, array, stream):
        self._array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | {"stream": stream}


def test_an_array_says_on_which_stream_it_is_used(comm, device):
    mine, n, stream = data(comm.rank, 50), 50 * 8, device.stream()
    given = device.pinned(n)
    given.host.view(float)[:] = mine
    x = on(device, np.zeros(50))
    device.copy(native.address(x.shadow), given.address, n, stream)
    Allreduce(comm, Foreign(x, stream), algorithm="ring")()
    device.synchronize(stream)
    np.testing.assert_array_equal(x.get(), total(comm, 50))


def test_the_race_is_among_those_of_the_device_and_the_host(comm, device):
    x = on(device, np.ones(1000))
    plan = Allreduce(comm, x)
    while plan.algorithm == "auto":
        x.set(1.0)
        plan()
        assert (x.get() == comm.size).all()
    said = {*plan.explain().split()}
    assert {"peer", "pipelined", "native"} <= said if comm.size > 1 else "peer" in said
    x.set(1.0)
    plan()
    assert (x.get() == comm.size).all()


@pytest.mark.mpi(min_size=2)
def test_devices_that_cannot_read_each_other_send_messages(comm, device, monkeypatch, caplog):
    def refuse(self, exported):
        raise HpckitError("this device cannot open that one's memory")

    monkeypatch.setattr(StandIn, "open", refuse)
    x = on(device, data(comm.rank, 100))
    plan = Allreduce(comm, x)
    plan()
    np.testing.assert_array_equal(x.get(), total(comm, 100))
    assert "peer" not in plan.explain().split() and "pipelined" in plan.explain().split()
    with pytest.raises(HpckitError, match="cannot open that one's memory"):
        Allreduce(comm, x, algorithm="peer")


def test_what_the_host_has_serves_arrays_on_devices(comm, device):
    """To the same bits: compressed and reproducible sums, operations of the user."""
    mine = np.random.default_rng(comm.rank).normal(size=(20, 15)).astype("f4")
    op = MPI.Op.Create(hypotenuse, commute=True)
    for options in (
        {"compress": "int8"},
        {"compress": "topk:0.2"},
        {"compress": "powersgd:2"},
        {"reproducible": True},
        {"op": op, "algorithm": "star"},
        {"op": op, "algorithm": "star", "group": 3},
    ):
        here, there = mine.copy(), on(device, mine)
        plans = Allreduce(comm, here, **options), Allreduce(comm, there, **options)
        for plan in plans:
            plan()
        assert there.get().tobytes() == here.tobytes(), options
        assert plans[1].error_bound() == plans[0].error_bound()
        assert len(plans[1].memory()) == len(plans[0].memory())
    del plans, plan
    op.Free()


def hypotenuse(a, b, datatype):
    x, y = np.frombuffer(a, "f4"), np.frombuffer(b, "f4")
    np.hypot(x, y, out=y)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", [*DEVICE_ALGORITHMS, "twoshot"])
def test_the_late_are_named_and_may_come_later(comm, device, algorithm):
    x = on(device, data(comm.rank, 5000))
    plan = Allreduce(comm, x, algorithm=algorithm, deadline=0.05)
    last = comm.size - 1
    if comm.rank != last:
        plan.start()
        with pytest.raises(HpckitError, match=str(last)):
            plan.wait()
    comm.Barrier()
    later = Allreduce(comm, on(device, np.ones(3)), algorithm="ring", deadline=100)
    later()
    if comm.rank == last:
        plan.start()
    comm.Barrier()
    while not plan.poll():
        os.sched_yield()
    plan.wait()
    np.testing.assert_array_equal(x.get(), total(comm, 5000))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dropped_between_start_and_wait_by_all_ranks(comm, device, algorithm):
    """Nothing is written into what its memory might have become, and the ranks can go on."""
    plan = Allreduce(comm, on(device, data(comm.rank, 20_000)), algorithm=algorithm)
    plan.start()
    del plan
    gc.collect()
    others = [on(device, np.full(20_000, -1.0)) for _ in range(5)]
    comm.Barrier()
    y = on(device, np.ones(5))
    Allreduce(comm, y, algorithm=algorithm)()
    assert (y.get() == comm.size).all()
    assert all((other.get() == -1).all() for other in others)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_plan_and_its_arrays_may_go_before_the_stream_has_come_to_it(comm, device, algorithm):
    plan = Allreduce(comm, on(device, data(comm.rank, 999)), algorithm=algorithm)
    plan()
    del plan
    gc.collect()
    device.synchronize(device.default_stream)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_left_behind(comm, device, algorithm):
    things = ("allocations", "pinned", "registered", "opened", "events")
    tidy(comm)
    before = [census[thing] for thing in things]
    for k in range(12):
        x = on(device, data(comm.rank, 999 + k).reshape(1, -1))
        plan = Allreduce(comm, x, algorithm=algorithm)
        plan()
        np.testing.assert_array_equal(x.get()[0], total(comm, 999 + k))
        plan = Allreduce(comm, x[:, ::2], algorithm=algorithm)
        plan()
    streams = census["streams"]
    del plan, x
    tidy(comm)
    assert [census[thing] for thing in things] == before
    x = on(device, data(comm.rank, 5))
    Allreduce(comm, x, algorithm=algorithm)()
    assert census["streams"] == streams  # those of plans that are gone are used again


def tidy(comm):
    """Until all ranks have given back what they can."""
    gc.collect()
    for _ in range(20):
        lifetime._free()
        comm.Barrier()


def test_a_single_sum(comm, device):
    mine = data(comm.rank, 60).reshape(3, 20)
    x = on(device, mine)
    for _ in range(3):
        result = allreduce(comm, x)
        np.testing.assert_array_equal(result.get(), total(comm, 60).reshape(3, 20))
        np.testing.assert_array_equal(x.get(), mine)
        part = allreduce(comm, x[:, ::-2], op=MPI.MAX, algorithm="ring")
        np.testing.assert_array_equal(
            part.get(), total(comm, 60, float, np.maximum).reshape(3, 20)[:, ::-2]
        )
    assert allreduce(comm, on(device, np.ones(()))).get() == comm.size


def test_a_single_sum_on_any_stream_of_a_rank(comm, device):
    """Nobody synchronises before the end, and one rank's streams differ from call to call."""
    mine, n = data(comm.rank, 60), 60 * 8
    given = device.pinned(n)
    given.host.view(float)[:] = mine
    results, streams = [], [device.stream(), device.stream()]
    for k in range(3):
        stream = streams[k % 2 if comm.rank else 0]
        x = on(device, np.zeros(60))
        device.copy(native.address(x.shadow), given.address, n, stream)
        result, memory = allreduce(comm, x, stream=stream), device.pinned(n)
        device.copy(memory.address, native.address(result.shadow), n, stream)
        results.append((x, result, memory))
    for stream in streams:
        device.synchronize(stream)
    for _, _, memory in results:
        np.testing.assert_array_equal(memory.host.view(float), total(comm, 60))


def test_what_is_refused(comm, device):
    x, here = on(device, np.ones((4, 6))), np.ones((4, 6))
    with pytest.raises(ConfigError, match="host memory and array"):
        Allreduce(comm, x, out=here)
    with pytest.raises(ConfigError, match="host memory and array"):
        Allreduce(comm, here, out=x)
    with pytest.raises(ConfigError, match="overlaps the array in memory"):
        Allreduce(comm, x[:3], out=x[1:])
    with pytest.raises(ConfigError, match="it must be like the array"):
        Allreduce(comm, x, out=on(device, np.ones(3)))
    with pytest.raises(ConfigError, match="chunks need an array that is contiguous"):
        Allreduce(comm, x[:, ::2], chunks=2)
    with pytest.raises(ConfigError, match="must be one of auto, peer, pipelined, native"):
        Allreduce(comm, x, algorithm="fast")
    with pytest.raises(ConfigError, match="must be one of auto, native"):
        Allreduce(comm, here, algorithm="peer")
    with pytest.raises(ConfigError, match="stream is for arrays on a device"):
        Allreduce(comm, here, stream=3)
    with pytest.raises(ConfigError, match="is no stream"):
        Allreduce(comm, x, stream="second")
    with pytest.raises(ConfigError, match="does not define this operation for float64"):
        Allreduce(comm, x, op=MPI.BAND)
    op = MPI.Op.Create(hypotenuse, commute=True)
    with pytest.raises(ConfigError, match="no kernel for operations of the user"):
        Allreduce(comm, x, op=op, algorithm="peer")
    op.Free()


@pytest.mark.mpi(min_size=2)
def test_ranks_with_arrays_in_other_places_are_refused_together(comm, device):
    x = on(device, np.ones(6)) if comm.rank else np.ones(6)
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        Allreduce(comm, x)
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        allreduce(comm, x)


@pytest.mark.mpi(min_size=2)
def test_no_memory_on_one_rank_is_everybodys_error(comm, device, monkeypatch):
    x = on(device, np.ones((4, 6)))

    def full(nbytes):
        raise HpckitError("no device memory is left")

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(device, "allocate", full)
    for given, algorithm in ((x, "peer"), (x, "pipelined"), (x[:, ::2], "ring")):
        with pytest.raises(HpckitError, match="no device memory is left"):
            Allreduce(comm, given, algorithm=algorithm)


def test_plans_are_watched(comm, device):
    x = on(device, data(comm.rank, 100))
    with Watch(comm, check=True) as watched:
        for algorithm in ALGORITHMS:
            x.set(data(comm.rank, 100))
            Allreduce(watched, x, algorithm=algorithm)()
            np.testing.assert_array_equal(x.get(), total(comm, 100))
        assert (allreduce(watched, x).get() == comm.size * total(comm, 100)).all()
