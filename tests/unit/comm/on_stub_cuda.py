"""Tests of `hpckit.comm.cuda` in a process whose driver is the stub: test_cuda.py runs them."""

import ctypes
import gc
import os
import threading

import numpy as np
import pytest
import stub_cuda

import hpckit
from hpckit import ptx
from hpckit.comm.cuda import Cuda
from hpckit.comm.device import Kernel
from hpckit.comm.device_array import empty
from hpckit.comm.places import place
from hpckit.errors import HpckitError
from hpckit.names import DEVICE_ALGORITHMS, DEVICE_HALO_METHODS

OUT_OF_MEMORY, INVALID_VALUE, NOT_INITIALIZED, ILLEGAL_ADDRESS = 2, 1, 3, 700
NOTHING = Kernel("tests.of_cuda", "nothing")
TEXT = b".version 8.0\n.entry nothing(\n"
pytestmark = pytest.mark.mpi


@pytest.fixture(scope="session")
def stub():
    return stub_cuda.Stub(*ptx.sources())


@pytest.fixture(scope="session")
def gpu(stub):
    """The GPU; the kernel `nothing` is added to those of hpckit."""
    theirs = ptx.text

    def text(module, driver):
        return TEXT if module == NOTHING.module else theirs(module, driver)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ptx, "text", text)
        yield Cuda(0, shared=True)


@pytest.fixture
def nothing_left(stub):
    gc.collect()
    before = stub.pieces(), stub.events()
    yield
    gc.collect()
    assert (stub.pieces(), stub.events()) == before


def upload(gpu, values):
    """Device memory with these values."""
    host, memory = gpu.pinned(values.nbytes), gpu.allocate(values.nbytes)
    host.host[:] = values.view("u1").ravel()
    gpu.copy(memory.address, host.address, values.nbytes, gpu.default_stream)
    gpu.synchronize(gpu.default_stream)
    return memory


def download(gpu, memory, dtype):
    host = gpu.pinned(memory.nbytes)
    gpu.copy(host.address, memory.address, memory.nbytes, gpu.default_stream)
    gpu.synchronize(gpu.default_stream)
    return host.host.view(dtype).copy()


def test_what_it_is(gpu):
    assert (gpu.name, gpu.kind, gpu.title) == ("cuda", "device", "Stub 0")
    assert gpu.uuid == "GPU-00010203-0405-0607-0809-0a0b0c0d0e00"
    assert Cuda.count() == 1
    assert gpu.properties.capability == (8, 0)
    assert gpu.properties.stream_operations


def test_bytes_go_there_and_back(gpu, nothing_left):
    values = np.random.default_rng(0).random(1000)
    assert np.array_equal(download(gpu, upload(gpu, values), float), values)


def test_nothing_takes_a_byte(gpu, nothing_left):
    """Empty arrays have memory too."""
    memory = upload(gpu, np.empty(0))
    assert memory.nbytes == 0
    assert gpu.pinned(0).host.size == 0
    assert download(gpu, memory, float).size == 0


def test_addresses_tell_whose_they_are(gpu, nothing_left):
    memory, pinned = gpu.allocate(100), gpu.pinned(100)
    assert gpu.holds(memory.address) and gpu.holds(memory.address + 99)
    assert not gpu.holds(pinned.address)
    assert not gpu.holds(np.ones(3).__array_interface__["data"][0])
    assert Cuda.number_at(memory.address) == 0
    assert Cuda.number_at(pinned.address) is None


def test_registered_memory_is_let_go(gpu, nothing_left):
    pages = np.frombuffer((ctypes.c_uint8 * 8192)(), "u1")
    memory = gpu.register(pages)
    assert memory.host is pages
    with pytest.raises(HpckitError, match=r"cannot be locked in place: .*ALREADY_REG"):
        gpu.register(pages)
    del memory
    gpu.register(pages)


def test_a_thousand_of_each_leave_nothing(gpu, nothing_left):
    for _ in range(1000):
        kept = gpu.allocate(8), gpu.pinned(8), gpu.event()
    del kept


def test_views_of_pinned_memory_keep_it(gpu, stub, nothing_left):
    gc.collect()
    before = stub.calls("cuMemFreeHost")
    view = gpu.pinned(64).host[8:16]
    gc.collect()
    assert stub.calls("cuMemFreeHost") == before
    view[:] = 7
    assert view.sum() == 56
    del view
    gc.collect()
    assert stub.calls("cuMemFreeHost") == before + 1


def test_a_thread_without_a_gpu_is_told(gpu, stub):
    stub.fail("cuCtxGetCurrent", NOT_INITIALIZED)
    with pytest.raises(HpckitError, match="NOT_INITIALIZED; a process that was forked"):
        gpu.allocate(8)


def test_events_and_streams(gpu, nothing_left):
    stream, event = gpu.stream(), gpu.event()
    assert stream not in (0, 1)
    event.record(stream)
    gpu.wait(gpu.default_stream, event)
    assert event.done()
    event.synchronize()


def test_work_that_failed_is_told(gpu, stub):
    event = gpu.event()
    event.record(1)
    for function, call in [
        ("cuEventQuery", event.done),
        ("cuEventSynchronize", event.synchronize),
        ("cuStreamSynchronize", lambda: gpu.synchronize(1)),
    ]:
        stub.fail(function, ILLEGAL_ADDRESS)
        with pytest.raises(HpckitError, match="ILLEGAL_ADDRESS; a kernel that ran before"):
            call()
        call()


def test_an_event_that_is_not_there_yet(gpu, stub):
    event = gpu.event()
    stub.fail("cuEventQuery", 600)
    assert not event.done()
    assert event.done()


VERBS = {
    "cuMemAlloc": lambda gpu, memory: gpu.allocate(8),
    "cuMemHostAlloc": lambda gpu, memory: gpu.pinned(8),
    "cuStreamCreate": lambda gpu, memory: gpu.stream(),
    "cuEventCreate": lambda gpu, memory: gpu.event(),
    "cuStreamWaitEvent": lambda gpu, memory: gpu.wait(1, gpu.event()),
    "cuEventRecord": lambda gpu, memory: gpu.event().record(1),
    "cuMemcpyAsync": lambda gpu, memory: gpu.copy(memory.address, memory.address, 8, 1),
    "cuIpcGetMemHandle": lambda gpu, memory: gpu.export(memory),
    "cuStreamBatchMemOp": lambda gpu, memory: gpu.signals([("write", memory.address)], 1)([1]),
    "cuLaunchKernel": lambda gpu, memory: nothing(gpu)(),
}


@pytest.mark.parametrize("function", VERBS)
def test_every_refusal_is_raised_with_the_drivers_word(gpu, stub, nothing_left, function):
    memory = gpu.allocate(8)
    stub.fail(function, INVALID_VALUE)
    with pytest.raises(HpckitError, match="CUDA_ERROR_INVALID_VALUE"):
        VERBS[function](gpu, memory)
    VERBS[function](gpu, memory)


def nothing(gpu, blocks=1):
    """A kernel with nothing to do."""
    return gpu.prepare(NOTHING, blocks, (1, 2.5, np.float32(0.5), np.int64(-1)), 1)


def test_kernels_get_their_arguments(gpu, stub):
    got = []
    kinds = ctypes.c_int64, ctypes.c_int64, ctypes.c_double, ctypes.c_float, ctypes.c_int64
    stub.twins["nothing"] = ctypes.CFUNCTYPE(None, *kinds)(lambda *values: got.append(values))
    launch = nothing(gpu, blocks=3)
    gc.collect()
    launch()
    launch()
    del stub.twins["nothing"]
    assert got == 2 * [(3, 1, 2.5, 0.5, -1)]
    assert stub.launches[-2:] == 2 * [("nothing", 3, 256)]


def test_a_module_is_loaded_once(gpu, stub):
    nothing(gpu)
    before = stub.calls("cuModuleLoadData")
    nothing(gpu)
    assert stub.calls("cuModuleLoadData") == before


@pytest.mark.parametrize("blocks", [0, -1, 2**31])
def test_impossible_launches(gpu, blocks):
    with pytest.raises(HpckitError, match=f"kernel nothing cannot run in {blocks} blocks: 1 to"):
        nothing(gpu, blocks)


def test_a_kernel_that_is_not_there(gpu):
    with pytest.raises(HpckitError, match="there is no kernel some"):
        gpu.prepare(NOTHING._replace(name="some"), 1, (), 1)


def test_a_launch_is_one_call_of_the_driver(gpu, stub):
    launch = nothing(gpu)  # in the context that is current from now on
    before = stub.calls("cuLaunchKernel"), stub.calls("cuCtxSetCurrent")
    launch()
    assert stub.calls("cuLaunchKernel") == before[0] + 1
    assert stub.calls("cuCtxSetCurrent") == before[1]


def test_signals(gpu, nothing_left):
    """In one call; counters go around."""
    pinned, memory = gpu.pinned(8), upload(gpu, np.zeros(1, "u4"))
    both = gpu.signals([("write", pinned.address), ("write", memory.address)], 1)
    both([7, 2**32 + 3])
    assert pinned.host.view("u4")[0] == 7
    assert download(gpu, memory, "u4")[0] == 3
    wait = gpu.signals([("wait", pinned.address)], 1)
    wait([7])
    pinned.host.view("u4")[0] = 2
    wait([2**32 - 5])
    gpu.signals([], 1)([])


def test_a_signal_that_comes_later(gpu, nothing_left):
    """Python goes on while the driver waits."""
    pinned = gpu.pinned(8)
    pinned.host[:] = 0
    later = threading.Timer(0.05, pinned.host.view("u4").__setitem__, [0, 1])
    later.start()
    gpu.signals([("wait", pinned.address)], 1)([1])
    later.join()


def test_signals_are_one_call(gpu, stub):
    pinned = gpu.pinned(64)
    give = gpu.signals([("write", pinned.address + 4 * i) for i in range(16)], 1)
    before = stub.calls("cuStreamBatchMemOp")
    give(range(16))
    assert stub.calls("cuStreamBatchMemOp") == before + 1
    assert list(pinned.host.view("u4")) == list(range(16))


def test_the_context_of_others_is_given_back(gpu):
    """A library that works with another GPU finds its context as it left it."""
    from cuda.bindings import driver

    other = driver.CUcontext(17)
    driver.cuCtxSetCurrent(other)
    gpu.allocate(8)
    assert int(driver.cuCtxGetCurrent()[1]) == 17
    driver.cuCtxSetCurrent(driver.CUcontext(0))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(gpu.allocate(8)))
    thread.start()
    thread.join()
    assert seen


def test_a_forked_child_gives_nothing_back(gpu, stub):
    memory = gpu.allocate(8)
    child = os.fork()
    if child == 0:
        before = stub.calls("cuMemFree")
        del memory
        os._exit(stub.calls("cuMemFree") - before)
    assert os.waitpid(child, 0)[1] == 0


def test_memory_of_other_ranks(comm, gpu, nothing_left):
    mine = upload(gpu, np.full(4, float(comm.rank)))
    everyone = comm.allgather(gpu.export(mine))
    for rank, exported in enumerate(everyone):
        if rank != comm.rank:
            theirs = gpu.open(exported)
            assert gpu.open(exported) is theirs
            assert np.array_equal(download(gpu, theirs, float), np.full(4, float(rank)))
    theirs = None
    comm.Barrier()


# -- what is above the seam


@pytest.fixture
def shared_gpu(comm, gpu):
    """The GPU as ranks open it."""
    return hpckit.device(comm, "cuda", share=True)


def test_a_halo(comm, shared_gpu):
    """Each method fills the ghosts that the host's fills; kernels come from the PTX of hpckit."""
    grid = hpckit.Grid(comm, (6, 8), periodic=True)
    here = grid.zeros()
    here[...] = np.random.default_rng(comm.rank).random(here.shape)
    expected = here.copy()
    hpckit.Halo(grid, fields=[expected]).exchange(expected)
    for method in ("auto", *sorted(DEVICE_HALO_METHODS.keys() - {"device"})):
        there = grid.zeros(device=shared_gpu)
        there.set(here)
        halo = hpckit.Halo(grid, fields=[there], method=method)
        halo.exchange(there)
        halo.synchronize()
        assert np.array_equal(there.get(), expected), method


ENQUEUED = "cuLaunchKernel", "cuMemcpyAsync", "cuEventRecord", "cuStreamWaitEvent"


@pytest.mark.parametrize("method", ["staged", "oneshot"])
def test_an_exchange_is_few_calls_however_many_fields(comm, shared_gpu, stub, method):
    grid = hpckit.Grid(comm, (6, 8, 5), periodic=True)
    fields = [grid.zeros(device=shared_gpu) for _ in range(3)]
    halo = hpckit.Halo(grid, fields=fields, method=method)
    halo.exchange(*fields)
    before = [stub.calls(each) for each in ENQUEUED]
    halo.exchange(*fields)
    made = [stub.calls(each) - was for each, was in zip(ENQUEUED, before, strict=True)]
    halo.synchronize()
    assert made[0] <= 2 and sum(made) <= 6, dict(zip(ENQUEUED, made, strict=True))


def test_a_sum(comm, shared_gpu):
    for algorithm in ("auto", *DEVICE_ALGORITHMS):
        array = empty(shared_gpu, (1000,), "f4")
        array.set(np.arange(1000) + comm.rank)
        hpckit.Allreduce(comm, array, algorithm=algorithm)()
        total = comm.size * np.arange(1000) + comm.size * (comm.size - 1) / 2
        assert np.array_equal(array.get(), total.astype("f4")), algorithm


def test_views_are_found_on_the_gpu(comm, shared_gpu):
    array = empty(shared_gpu, (4, 6))[::-1, ::2]
    assert place([array]) is shared_gpu
    assert shared_gpu.view(array).strides == (-48, 16)
