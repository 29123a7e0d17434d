"""A stand-in for a GPU, on the CPU: strict where GPUs are lenient, so that mistakes show in tests.

Its memory is out of the host's reach (`hpckit.comm.stand_in_memory`). Its streams are lists of
operations that run only when the host synchronises with them, or with a stream that waits for them:
whatever is used too early is not there yet. Kernels are the same Python source, compiled for the
CPU. It proves that programs are right, and says nothing of how fast they are.

`census` counts what there is and what was done, so that tests can say that nothing was left. ::

    device = hpckit.device(comm, "stand-in")  # a GPU of this rank's own
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import index
from typing import Any, ClassVar

import numpy as np

from hpckit import native
from hpckit.comm.device import DeviceArrays, Kernel, Signal
from hpckit.comm.stand_in_memory import MOST, ROOM, SPACE, Space, inside, is_readable
from hpckit.errors import ConfigError, HpckitError

DEVICES = "HPCKIT_STAND_IN_DEVICES"  # how many there are; as many as can be where it is not set
PATIENCE = 60.0  # seconds without progress until waiting for a counter is an error
_HANDLE = struct.Struct("qqqqq")  # process, descriptor, inode, offset and bytes
_DEFAULT_STREAM = 1
_FIRST_STREAM = 100  # of new ones: no handle that means something to CUDA
_MOST_BLOCKS = 2**31 - 1
_LATER = False  # what an operation returns that cannot run yet

census: Counter[str] = Counter()
"""allocations, pinned, registered, opened, streams and events that live; launches and calls made"""


class Piece:
    """Memory that the stand-in reaches; see `hpckit.comm.device.Memory`."""

    def __init__(self, address: int, nbytes: int, host: np.ndarray | None = None) -> None:
        self.address = address
        self.nbytes = nbytes
        self.host = host


class _Stream:
    """Operations that wait to be run, in this order; `passed` are done."""

    def __init__(self) -> None:
        self.operations: deque[Callable[[], object]] = deque()
        self.passed = 0

    @property
    def end(self) -> int:
        """How many have passed when all have that are here now."""
        return self.passed + len(self.operations)

    def run(self, until: int) -> bool:
        """Run up to there, or to one that has to wait; whether it came there."""
        while self.passed < until:
            if self.operations[0]() is _LATER:
                return False
            self.operations.popleft()
            self.passed += 1
        return True


class Mark:
    """An event: so many operations of a stream."""

    def __init__(self, device: StandIn) -> None:
        self._device = device
        self.stream = _Stream()  # nothing is recorded: nothing to wait for
        self.at = 0

    def record(self, stream: int) -> None:
        census["calls"] += 1
        self.stream = self._device.queue(stream)
        self.at = self.stream.end

    def done(self) -> bool:
        """Runs what can run without waiting: else whoever asks again and again asks for ever."""
        census["calls"] += 1
        return self.stream.run(self.at)

    def synchronize(self) -> None:
        census["calls"] += 1
        self._device.complete(self.stream, self.at)


class StandIn(DeviceArrays):
    """Stand-in `number`, in this process. Raises `ConfigError` where there are not so many."""

    name: ClassVar[str] = "stand-in"
    title = "stand-in for a GPU"
    default_stream = _DEFAULT_STREAM

    def __init__(self, number: int, shared: bool = False) -> None:
        if not 0 <= number < self.count():
            raise ConfigError(
                f"there is no stand-in {number}: there are {self.count()}, as {DEVICES} says"
            )
        self.number = number
        self.shared = shared
        self.uuid = f"stand-in-{number}"
        self.driver = "readable" if is_readable() else "unreadable"
        self._space = Space(number)
        self._streams = {_DEFAULT_STREAM: _Stream()}
        self._allocated: dict[int, int] = {}  # address: bytes, of what can be exported
        self._opened: set[bytes] = set()
        self._host: dict[int, int] = {}  # address: end, of pinned and registered memory
        self._waits_for = ""

    @classmethod
    def count(cls) -> int:
        return min(int(os.environ.get(DEVICES, MOST)), MOST)

    @classmethod
    def describe(cls) -> list[str]:
        """A line about all of them."""
        return [f"{cls.count()} times a {cls.title}, on the CPU"]

    @classmethod
    def number_at(cls, address: int) -> int | None:
        """Of the stand-in in whose memory this address is; None: of none."""
        number = (address - SPACE) // ROOM
        return number if 0 <= number < cls.count() else None

    def __repr__(self) -> str:
        return f"<{self.title}: {self.uuid}>"

    # -- memory

    def allocate(self, nbytes: int) -> Piece:
        piece = Piece(self._space.allocate(nbytes), nbytes)
        self._allocated[piece.address] = nbytes
        return self._counted("allocations", piece, self._free)

    def _free(self, address: int, nbytes: int) -> None:
        """Once all that is enqueued has run: a driver waits for that, here nobody may run it."""
        del self._allocated[address]
        busy = [queue for queue in self._streams.values() if queue.operations]

        def passed() -> None:
            busy.pop()
            if not busy:
                self._space.free(address, nbytes)

        if not busy:
            self._space.free(address, nbytes)
        for queue in [*busy]:
            queue.operations.append(passed)

    def pinned(self, nbytes: int) -> Piece:
        memory = np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), "u1")[:nbytes]
        return self._reachable("pinned", memory)

    def register(self, array: np.ndarray) -> Piece:
        start, nbytes = native.address(array), array.nbytes
        if not nbytes or start % mmap.PAGESIZE or nbytes % mmap.PAGESIZE:
            raise HpckitError(
                f"{nbytes} bytes at {start:#x} cannot be registered: they must be whole pages of "
                f"{mmap.PAGESIZE} bytes, one at least"
            )
        if any(start < end and begin < start + nbytes for begin, end in self._reached_on_host()):
            raise HpckitError(f"memory at {start:#x} cannot be registered: some of it is already")
        return self._reachable("registered", array)

    def _reachable(self, what: str, host: np.ndarray) -> Piece:
        piece = Piece(native.address(host), host.nbytes, host)
        self._host[piece.address] = piece.address + host.nbytes
        return self._counted(what, piece, self._unreachable)

    def _reached_on_host(self) -> list[tuple[int, int]]:
        """Where that begins and ends; a copy, as garbage may be given back while one looks."""
        return [*self._host.items()]

    def _unreachable(self, address: int, nbytes: int) -> None:
        del self._host[address]

    def export(self, memory: Piece) -> bytes:
        nbytes = self._allocated.get(memory.address)
        if nbytes is None:
            raise HpckitError(
                f"memory at {memory.address:#x} cannot be exported: only what was allocated can"
            )
        file = self._space.file
        offset = memory.address - self._space.start
        return _HANDLE.pack(os.getpid(), file, os.fstat(file).st_ino, offset, nbytes)

    def open(self, exported: bytes) -> Piece:
        process, descriptor, inode, offset, nbytes = _HANDLE.unpack(exported)
        if process == os.getpid():
            raise HpckitError("memory of this very process cannot be opened")
        if exported in self._opened:
            raise HpckitError("memory of another rank cannot be opened twice at the same time")
        file = _opened(process, descriptor, inode)
        try:
            piece = Piece(self._space.map(file, offset, nbytes), nbytes)
        finally:
            os.close(file)
        self._opened.add(exported)
        return self._counted("opened", piece, partial(self._close, exported))

    def _close(self, exported: bytes, address: int, nbytes: int) -> None:
        self._opened.remove(exported)
        self._space.unmap(address, nbytes)

    def holds(self, address: int) -> bool:
        return self._space.holds(address)

    def _counted(self, what: str, piece: Piece, undo: Callable[[int, int], object]) -> Piece:
        """It is undone when nobody holds it any more."""
        census["calls"] += 1
        census[what] += 1
        weakref.finalize(
            piece, _undo, os.getpid(), what, undo, piece.address, piece.nbytes
        ).atexit = False  # MPI may use it until the end
        return piece

    # -- streams

    def stream(self) -> int:
        number = _FIRST_STREAM + len(self._streams)
        self._streams[number] = _Stream()
        census["calls"] += 1
        census["streams"] += 1
        return number

    def event(self) -> Mark:
        mark = Mark(self)
        census["calls"] += 1
        census["events"] += 1
        weakref.finalize(mark, census.subtract, ["events"]).atexit = False
        return mark

    def wait(self, stream: int, event: Mark) -> None:
        census["calls"] += 1
        self.queue(stream).operations.append(partial(event.stream.run, event.at))

    def synchronize(self, stream: int) -> None:
        census["calls"] += 1
        queue = self.queue(stream)
        self.complete(queue, queue.end)

    def run(self, stream: int, count: int) -> None:
        """Of what is on a stream run only the first `count` operations: for tests."""
        queue = self.queue(stream)
        self.complete(queue, min(queue.passed + count, queue.end))

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._check(target, nbytes)
        self._check(source, nbytes)
        move = partial(ctypes.memmove, inside(target), inside(source), nbytes)
        census["calls"] += 1
        self.queue(stream).operations.append(move)

    def prepare(
        self, kernel: Kernel, blocks: int, arguments: Sequence[Any], stream: int
    ) -> Callable[[], object]:
        if not 1 <= blocks <= _MOST_BLOCKS:
            raise HpckitError(
                f"kernel {kernel.name} cannot have {blocks} blocks: 1 to {_MOST_BLOCKS} can be run"
            )
        run = partial(_twin(kernel, len(arguments)), blocks, *map(_argument, arguments))
        operations = self.queue(stream).operations

        def launch() -> None:
            census["launches"] += 1
            census["calls"] += 1
            operations.append(run)

        return launch

    def signals(self, signals: Sequence[Signal], stream: int) -> Callable[[Sequence[int]], object]:
        for _, address in signals:
            self._check(address, 4)
        operations = self.queue(stream).operations
        makers = [
            partial(
                _write if verb == "write" else self._reached,
                ctypes.c_uint32.from_address(inside(address)),
            )
            for verb, address in signals
        ]

        def enqueue(values: Sequence[int]) -> None:
            census["calls"] += 1
            for make, value in zip(makers, values, strict=True):
                operations.append(partial(make, value))

        return enqueue

    def queue(self, stream: int) -> _Stream:
        """What is on a stream."""
        try:
            return self._streams[stream]
        except KeyError:
            raise HpckitError(f"{self.uuid} has no stream {stream}") from None

    def complete(self, queue: _Stream, until: int) -> None:
        """Run it up to there, waiting where it has to."""
        limit = time.monotonic() + PATIENCE
        while not queue.run(until):
            if time.monotonic() > limit:
                raise HpckitError(f"{self.uuid} waited {PATIENCE:g} s for {self._waits_for}")
            os.sched_yield()

    def _reached(self, counter: ctypes.c_uint32, value: int) -> bool:
        """Whether a counter is at a value or beyond, counted around 2**32."""
        if (counter.value - value) % 2**32 < 2**31:
            return True
        at = ctypes.addressof(counter)
        self._waits_for = f"the counter at {at:#x} to come from {counter.value} to {value}"
        return False

    def _check(self, address: int, nbytes: int) -> None:
        """A GPU faults, or reads what is not there yet."""
        if not self._space.holds(address) and not any(
            begin <= address and address + nbytes <= end for begin, end in self._reached_on_host()
        ):
            raise HpckitError(
                f"{nbytes} bytes at {address:#x} are neither in the memory of {self.uuid} nor "
                "pinned or registered for it"
            )


def _write(counter: ctypes.c_uint32, value: int) -> None:
    """A plain word: x86 shows it to other ranks after all that was written before."""
    counter.value = value % 2**32


def _twin(kernel: Kernel, count: int) -> Any:
    """What runs a kernel on the CPU."""
    function = getattr(native.load(kernel.module), kernel.name, None)
    if function is None:
        raise HpckitError(f"{kernel.module} has no kernel {kernel.name}")
    if len(function.argtypes) != count + 1:
        raise HpckitError(
            f"kernel {kernel.name} takes {len(function.argtypes) - 1} arguments, not {count}"
        )
    return function


def _argument(value: Any) -> int | float:
    return float(value) if isinstance(value, float | np.floating) else index(value)


def _opened(process: int, descriptor: int, inode: int) -> int:
    """A descriptor of another rank's memory: of that file and no other."""
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HpckitError(f"another rank's memory cannot be opened: {error}") from error
    if os.fstat(file).st_ino == inode:
        return file
    os.close(file)
    raise HpckitError(f"another rank's memory cannot be opened: {path} is another file")


def _undo(
    process: int, what: str, undo: Callable[[int, int], object], address: int, nbytes: int
) -> None:
    if process != os.getpid():
        return  # the garbage of a forked child is its parent's memory
    census[what] -= 1
    undo(address, nbytes)
