"""The stand-in for a GPU: it must not forgive what a GPU does not."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
from itertools import pairwise
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpckit
from hpckit import native
from hpckit.comm import stand_in
from hpckit.comm.device import Kernel
from hpckit.comm.device_array import empty
from hpckit.comm.stand_in import StandIn, census
from hpckit.comm.stand_in_memory import ROOM, inside
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine.node_memory import NodeMemory

HEAD = """
import ctypes, numpy as np
from hpckit.comm.device_array import empty
from hpckit.comm.stand_in import StandIn
device = StandIn(0)
u = empty(device, (4,))
u.set(1.0)
"""


@pytest.fixture
def device(comm):
    """With nothing on its streams that tests before left there: memory is not free until it ran."""
    found = hpckit.device(comm, "stand-in")
    for stream in [*found._streams]:
        found.synchronize(stream)
    return found


def bytes_at(memory, n=None):
    """What is there now, without waiting for anything."""
    return ctypes.string_at(inside(memory.address), memory.nbytes if n is None else n)


def full(device, value, nbytes=8):
    """Pinned memory full of a value."""
    memory = device.pinned(nbytes)
    memory.host[:] = value
    return memory


@pytest.mark.parametrize(
    "touch",
    [
        "u.shadow[0]",
        "u.shadow[0] = 2.0",
        "np.copy(u.shadow)",
        "ctypes.string_at(u.memory.address, 1)",
        "from mpi4py import MPI; MPI.COMM_SELF.Allreduce(u.shadow, np.empty(4))",
        "address = u.memory.address; del u; device.copy(address, address, 8, 1); "
        "device.synchronize(1)",
    ],
)
def test_touching_its_memory_is_fatal(mpirun, touch):
    """Also through MPI, and what was freed even for the device."""
    died = mpirun(None, "-c", f"{HEAD}print('alive', flush=True)\n{touch}\nprint('still')")
    assert died.returncode in (-signal.SIGSEGV, 128 + signal.SIGSEGV), died.stdout
    assert "alive" in died.stdout and "still" not in died.stdout


def test_it_can_be_made_readable(mpirun):
    """As by an MPI that knows GPUs."""
    done = mpirun(None, "-c", f"{HEAD}print(np.asarray(u.shadow))", HPCKIT_STAND_IN="readable")
    assert done.stdout.strip() == "[1. 1. 1. 1.]"


def test_work_is_done_when_it_is_waited_for_and_not_before(comm, device):
    a, b = device.allocate(8), device.allocate(8)
    one, two = full(device, 1), full(device, 2)
    stream = device.stream()
    device.copy(a.address, one.address, 8, stream)
    device.copy(b.address, two.address, 8, stream)
    assert bytes_at(a) == bytes_at(b) == b"\xff" * 8
    device.run(stream, 1)
    assert (bytes_at(a), bytes_at(b)) == (b"\1" * 8, b"\xff" * 8)
    device.synchronize(stream)
    assert bytes_at(b) == b"\2" * 8


def test_a_stream_runs_another_up_to_the_event_that_it_waits_for(comm, device):
    a, b = device.allocate(8), device.allocate(8)
    one, two = full(device, 1), full(device, 2)
    first, second = device.stream(), device.stream()
    event = device.event()
    device.copy(a.address, one.address, 8, first)
    event.record(first)
    device.copy(a.address, two.address, 8, first)
    device.wait(second, event)
    device.copy(b.address, a.address, 8, second)
    device.synchronize(second)
    assert bytes_at(a) == bytes_at(b) == b"\1" * 8
    device.synchronize(first)
    assert (bytes_at(a), bytes_at(b)) == (b"\2" * 8, b"\1" * 8)


def test_waiting_for_an_event_means_its_last_record_at_that_time(comm, device):
    a, one = device.allocate(8), full(device, 1)
    first, second = device.stream(), device.stream()
    event = device.event()
    device.wait(second, event)  # nothing recorded yet
    event.record(first)
    device.wait(second, event)
    device.copy(a.address, one.address, 8, first)
    event.record(first)
    device.synchronize(second)
    assert bytes_at(a) == b"\xff" * 8
    event.synchronize()
    assert bytes_at(a) == b"\1" * 8


def test_asking_whether_an_event_is_done_waits_for_no_counter(comm, device):
    word = device.pinned(PAGESIZE)
    waiting, event = device.stream(), device.event()
    device.signals([("wait", word.address)], waiting)([3])
    event.record(waiting)
    assert not event.done()
    word.host.view("u4")[0] = 4
    assert event.done()


@pytest.mark.parametrize(("now", "wanted"), [(2**32 - 1, 0), (2**32 - 1, 2)])
def test_counters_count_around(comm, device, now, wanted):
    word = device.pinned(PAGESIZE)
    word.host.view("u4")[0] = now
    stream, event = device.stream(), device.event()
    device.signals([("wait", word.address)], stream)([wanted])
    event.record(stream)
    assert not event.done()
    device.signals([("write", word.address)], device.default_stream)([2**32 + 2])
    device.synchronize(device.default_stream)
    assert event.done() and word.host.view("u4")[0] == 2


def test_a_counter_that_never_comes_is_an_error(comm, device, monkeypatch):
    monkeypatch.setattr(stand_in, "PATIENCE", 0.05)
    word = device.pinned(PAGESIZE)
    word.host[:] = 0
    stream = device.stream()
    device.signals([("wait", word.address)], stream)([1])
    with pytest.raises(HpckitError, match=rf"waited 0.05 s for .* {word.address:#x} .*from 0 to 1"):
        device.synchronize(stream)


@pytest.mark.mpi(min_size=2)
def test_ranks_read_each_others_memory_once_counters_say_so(comm, device):
    """Rank 0 writes, then posts; the others wait for that on their device, then copy."""
    node = NodeMemory.of(comm)
    window = device.register(node.zeros(PAGESIZE, "u1"))
    theirs = node.peers(window.host)[0]
    counter = window if comm.rank == 0 else device.register(theirs)
    mine, stream = device.allocate(8), device.stream()
    exported = comm.bcast(device.export(mine) if comm.rank == 0 else None)
    if comm.rank == 0:
        one = full(device, 1)
        device.copy(mine.address, one.address, 8, stream)
        device.signals([("write", counter.address)], stream)([1])
    else:
        opened = device.open(exported)
        assert opened.nbytes == 8 and opened.address != mine.address
        device.signals([("wait", counter.address)], stream)([1])
        device.copy(mine.address, opened.address, 8, stream)
        with pytest.raises(HpckitError, match="twice"):
            device.open(exported)
    device.synchronize(stream)
    assert bytes_at(mine) == b"\1" * 8
    if comm.rank:
        del opened
        device.open(exported)
    comm.Barrier()


def test_what_cannot_be_opened(comm, device):
    with pytest.raises(HpckitError, match="this very process"):
        device.open(device.export(device.allocate(8)))
    with pytest.raises(HpckitError, match="only what was allocated"):
        device.export(device.pinned(8))
    nobody = stand_in._HANDLE.pack(2**22 + 1, 3, 1, 0, 8)  # beyond the largest process number
    with pytest.raises(HpckitError, match="cannot be opened"):
        device.open(nobody)


def test_only_whole_pages_are_registered_and_once(comm, device):
    pages = NodeMemory.of(comm).zeros(3 * PAGESIZE, "u1")
    for part in (pages[:100], pages[8 : 8 + PAGESIZE], pages[:0]):
        with pytest.raises(HpckitError, match="whole pages"):
            device.register(part)
    held = device.register(pages[: 2 * PAGESIZE])
    with pytest.raises(HpckitError, match="already"):
        device.register(pages[PAGESIZE:])
    del held
    device.register(pages[PAGESIZE:])


def test_copies_from_memory_that_a_gpu_does_not_reach_are_errors(comm, device):
    memory, here = device.allocate(8), np.zeros(1)
    for ends in ((memory.address, native.address(here)), (native.address(here), memory.address)):
        with pytest.raises(HpckitError, match="neither in the memory of stand-in-"):
            device.copy(*ends, 8, device.default_stream)
    with pytest.raises(HpckitError, match="neither"):
        device.signals([("write", native.address(here))], device.default_stream)


@pytest.mark.parametrize(
    ("kernel", "blocks", "arguments", "message"),
    [
        ("moves", 0, (0, 0, 0), "cannot have 0 blocks"),
        ("moves", 2**31, (0, 0, 0), "cannot have 2147483648 blocks"),
        ("moves", 1, (0,), "takes 3 arguments, not 1"),
        ("moved", 1, (0, 0, 0), "has no kernel moved"),
    ],
)
def test_launches_that_fail_raise(comm, device, kernel, blocks, arguments, message):
    with pytest.raises(HpckitError, match=message):
        device.prepare(
            Kernel("hpckit.comm.device_kernels", kernel), blocks, arguments, device.default_stream
        )


def test_streams_that_are_not_there(comm, device):
    for use in (device.synchronize, device.event().record):
        with pytest.raises(HpckitError, match=r"stand-in-\d+ has no stream 77"):
            use(77)


def test_nothing_is_left(comm, device):
    """Neither pages nor maps nor files, of a thousand allocations and more of each other kind."""
    device.staging  # noqa: B018  (made once, and kept)
    before = left(device)
    for nbytes in range(1000):
        held = [device.allocate(nbytes), device.pinned(nbytes), device.event()]
        device.register(device.pinned(PAGESIZE).host)
    assert left(device) != before
    del held
    assert left(device) == before


def left(device):
    gc.collect()
    live = ("allocations", "pinned", "registered", "opened", "events")
    maps = Path("/proc/self/maps").read_text().splitlines()
    ours = [line for line in maps if "hpckit-stand-in" in line and "---s" not in line]
    blocks = os.fstat(device._space.file).st_blocks
    return [census[each] for each in live], ours, len([*Path("/proc/self/fd").iterdir()]), blocks


def test_a_device_is_used_up(comm, device):
    with pytest.raises(HpckitError, match=r"17.2 GB of device memory .*: 17\.\d GB of 17.2 GB are"):
        device.allocate(ROOM)
    with pytest.raises(HpckitError, match="use fewer or smaller arrays"):
        [device.allocate(ROOM // 7) for _ in range(8)]
    device.allocate(ROOM // 7)


@given(sizes=st.lists(st.integers(0, 20_000), max_size=20), kept=st.randoms(use_true_random=False))
def test_pieces_do_not_touch(comm, device, sizes, kept):
    pieces = []
    for nbytes in sizes:
        if pieces and kept.random() < 0.4:
            del pieces[kept.randrange(len(pieces))]
        pieces.append(device.allocate(nbytes))
        ends = sorted((each.address, each.address + each.nbytes) for each in pieces)
        assert all(end <= begin - PAGESIZE for (_, end), (begin, _) in pairwise(ends))
        assert all(device.holds(begin) and begin % PAGESIZE == 0 for begin, _ in ends)


def test_new_memory_is_no_number(comm, device):
    assert np.isnan(empty(device, (3, 5)).get()).all()


def test_there_are_as_many_as_the_environment_says(comm, monkeypatch):
    monkeypatch.setenv("HPCKIT_STAND_IN_DEVICES", "2")
    assert StandIn.count() == 2
    with pytest.raises(ConfigError, match="no stand-in 2: there are 2"):
        StandIn(2)
