"""Sections of the GPU benchmark that one process runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks._gpu import Time, emit, finisher, host_time, timed
from hpckit import native
from hpckit.comm.device import Device
from hpckit.comm.device_array import DeviceArray, empty
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move
from hpckit.units import binary

DTYPES = {16: "c16", 8: "f8", 4: "f4", 2: "i2", 1: "u1"}  # by bytes of a word
MIB = 2**20


def copy_of(source: DeviceArray, target: DeviceArray) -> Move:
    """The move from one array to another of its shape."""
    ends = [(native.address(each.shadow), each.strides) for each in (source, target)]
    return Move(source.shape, source.dtype.itemsize, *ends[0], *ends[1])


# -- moves are right


def moves_are_right(device: Device, quick: bool) -> None:
    """Random views of arrays of all words, packed and unpacked, against NumPy."""
    rng = np.random.default_rng(0)
    wrong, count = [], 5 if quick else 60
    for word, _ in itertools.product(DTYPES, range(count)):
        shape = tuple(map(int, rng.integers(1, 8 if quick else 60, rng.integers(1, 5))))
        view = tuple(map(partial(_slice, rng), shape))
        if not _is_right(device, DTYPES[word], shape, view):
            wrong.append((word, shape, str(view)))
    emit("moves_are_right", f"{count} views for each word", wrong=wrong, right=not wrong)


def _slice(rng: np.random.Generator, n: int) -> slice:
    first, last = sorted(rng.integers(0, n, 2))
    step = int(rng.integers(1, 4))
    return slice(first, last + 1, step) if rng.random() < 0.8 else slice(last, None, -step)


def _is_right(device: Device, dtype: str, shape: tuple, view: tuple) -> bool:
    here = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    there = empty(device, shape, dtype)
    there.set(here)
    dense = empty(device, here[view].shape, dtype)
    pack = DeviceMoves(device, [copy_of(there[view], dense)], device.default_stream)
    unpack = DeviceMoves(device, [copy_of(dense, there[view])], device.default_stream)
    pack.run()
    packed = np.array_equal(dense.get(), here[view])
    here[view] = here[view][::-1]
    dense.set(here[view])
    unpack.run()
    return packed and np.array_equal(there.get(), here)


# -- pack


class Rows(NamedTuple):
    """So many rows of `row` bytes, each `pitch` bytes after the one before, in words of `word`."""

    row: int
    word: int
    nbytes: int

    @property
    def count(self) -> int:
        return self.nbytes // self.row

    @property
    def pitch(self) -> int:
        return 2 * self.row + self.word  # an odd number of words

    def __str__(self) -> str:
        return f"{binary(self.nbytes)} in rows of {binary(self.row)}, words of {self.word} B"


def pack(device: Device, quick: bool) -> None:
    """Pack and unpack rows: against a device copy of as many bytes, and against what others do."""
    total = 4096 if quick else 128 * MIB
    sizes = (8, 128) if quick else (8, 32, 128, 1024, 65536)
    cases = [Rows(row, word, total) for row, word in itertools.product(sizes, DTYPES)]
    cases += [Rows(8, 8, 8 * n) for n in ((64,) if quick else (2**22, 256**2))]  # 1-cell faces
    for rows in cases:
        if rows.row % rows.word == 0:
            _pack(device, rows, quick)


def _pack(device: Device, rows: Rows, quick: bool) -> None:
    dtype, words = DTYPES[rows.word], rows.row // rows.word
    field = empty(device, (rows.count, rows.pitch // rows.word), dtype)[:, :words]
    dense = empty(device, (rows.count, words), dtype)
    done, bytes_moved = finisher(device), 2 * rows.nbytes
    ways = {"copy": _copy(device, rows), **dict(_ours(device, field, dense))}
    times: dict[str, Time] = {name: timed(way, done, quick=quick) for name, way in ways.items()}
    for name, way in _others(device, rows, field, dense):
        times[name] = timed(way, done, quick=quick)
    copy = times["copy"].best
    for name, time in times.items():
        emit(
            "pack",
            str(rows),
            way=name,
            us=time.best * 1e6,
            median_us=time.median * 1e6,
            GBps=time.bandwidth(bytes_moved),
            of_copy=copy / time.best,
        )


def _copy(device: Device, rows: Rows) -> Callable[[], object]:
    """A device copy of as many bytes, the limit."""
    ends = [device.allocate(rows.nbytes) for _ in range(2)]

    def copy() -> None:
        device.copy(ends[0].address, ends[1].address, rows.nbytes, device.default_stream)

    return copy


def _ours(
    device: Device, field: DeviceArray, dense: DeviceArray
) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, move in (("pack", copy_of(field, dense)), ("unpack", copy_of(dense, field))):
        yield name, DeviceMoves(device, [move], device.default_stream).run


def _others(
    device: Device, rows: Rows, field: DeviceArray, dense: DeviceArray
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Those that are there on a GPU: the driver's strided copy, CuPy, and reading the rows only."""
    if device.name != "cuda":
        return
    yield "cuMemcpy3DAsync", _strided_copy(device, rows, field, dense)
    try:
        import cupy
    except ImportError:
        return
    theirs = [cupy.asarray(each) for each in (dense, field)]
    yield "cupy.copyto", partial(cupy.copyto, *theirs)
    yield "read only", _reader(cupy, rows, theirs[1])


def _strided_copy(
    device: Device, rows: Rows, field: DeviceArray, dense: DeviceArray
) -> Callable[[], object]:
    from cuda.bindings import driver

    copy = driver.CUDA_MEMCPY3D()
    copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.srcDevice = driver.CUdeviceptr(native.address(field.shadow))
    copy.dstDevice = driver.CUdeviceptr(native.address(dense.shadow))
    copy.srcPitch, copy.dstPitch = rows.pitch, rows.row
    copy.WidthInBytes, copy.Height, copy.Depth = rows.row, rows.count, 1
    copy.srcHeight = copy.dstHeight = rows.count

    def run() -> None:
        (code,) = driver.cuMemcpy3DAsync(copy, device.default_stream)
        if code:
            raise RuntimeError(code.name)

    return run


_READ = """
extern "C" __global__ void read_rows(const char *from, long long words, long long row,
                                     long long pitch, unsigned *out) {
    unsigned found = 0;
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < words; i += step) {
        WORD word = *(const WORD *)(from + i / row * pitch + i % row * sizeof(WORD));
        found ^= (unsigned)word;
    }
    if (found == 0xdeadbeef) *out = found;
}
"""
_WORDS = {8: "unsigned long long", 4: "unsigned", 2: "unsigned short", 1: "unsigned char"}


def _reader(cupy: Any, rows: Rows, field: Any) -> Callable[[], object]:
    """A kernel that reads the same addresses and writes nothing."""
    word = min(rows.word, 8)
    kernel = cupy.RawKernel(_READ.replace("WORD", _WORDS[word]), "read_rows")
    words, out = rows.nbytes // word, cupy.zeros(1, "u4")
    blocks = min(-(-words // 256), 132 * 16)
    arguments = (field, words, rows.row // word, rows.pitch, out)
    numbers = tuple(cupy.int64(a) if isinstance(a, int) else a for a in arguments)
    return lambda: kernel((blocks,), (256,), numbers)


# -- launches and copies


def launches(device: Device, quick: bool) -> None:
    """What the host pays for one call of each verb, and for a round trip."""
    stream, event = device.default_stream, device.event()
    ends = [empty(device, (64, 3), "f8") for _ in range(2)]
    counter = device.pinned(8)
    write = device.signals([("write", counter.address), ("write", counter.address + 4)], stream)
    run = DeviceMoves(device, [copy_of(ends[0][:, :2], ends[1][:, :2])], stream).run
    here = device.pinned(8)
    verbs: dict[str, Callable[[], object]] = {
        "launch": run,
        "copy of 8 B": lambda: device.copy(ends[0].memory.address, here.address, 8, stream),
        "record": lambda: event.record(stream),
        "wait": lambda: device.wait(stream, event),
        "two signals": lambda: write([1, 1]),
    }
    for name, call in verbs.items():
        emit("launches", name, host_us=host_time(call, finisher(device)) * 1e6)
    done = finisher(device)
    trip = timed(lambda: (run(), done()), done)
    emit("launches", "launch and synchronise", us=trip.best * 1e6, median_us=trip.median * 1e6)


def staging(device: Device, quick: bool) -> None:
    """To pinned memory and back, in chunks, each way alone and both at once."""
    total = MIB // 16 if quick else 64 * MIB
    there, here = device.allocate(total), device.pinned(total)
    streams = device.stream(), device.stream()
    ways: dict[str, Sequence[tuple[int, int, int]]] = {
        "to the host": [(here.address, there.address, streams[0])],
        "to the device": [(there.address, here.address, streams[1])],
    }
    halves = total // 2  # of different bytes
    ways["both ways"] = [
        (here.address, there.address, streams[0]),
        (there.address + halves, here.address + halves, streams[1]),
    ]
    for chunk in (total >> shift for shift in ((0, 2) if quick else range(0, 11, 2))):
        for name, copies in ways.items():
            nbytes = total // len(copies)
            time = timed(*_chunked(device, copies, nbytes, min(chunk, nbytes)), quick=quick)
            emit("staging", f"{name}, chunks of {binary(chunk)}", GBps=time.bandwidth(total))


def _chunked(
    device: Device, copies: Sequence[tuple[int, int, int]], nbytes: int, chunk: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    def run() -> None:
        for start in range(0, nbytes, chunk):
            for target, source, stream in copies:
                device.copy(target + start, source + start, chunk, stream)

    def finish() -> None:
        for *_, stream in copies:
            device.synchronize(stream)

    return run, finish
