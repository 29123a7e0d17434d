"""Fields in the memory of a device, on which their kernels run: see `hpckit.pde.backend`.

All work of a solver is on the device's default stream, in the order in which it is asked for. Speed
on a GPU: not yet measured.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from hpckit import native
from hpckit.comm.device import Device, Kernel
from hpckit.errors import ConfigError
from hpckit.pde.device_tables import CELLS, EXTENTS
from hpckit.pde.sweep import Slices, corners, extents
from hpckit.pde.walls import INSULATED, Walls, edges
from hpckit.ptx.conventions import THREADS

if TYPE_CHECKING:
    from hpckit.comm.device_array import DeviceArray
    from hpckit.comm.grid import Grid

_KERNELS = "hpckit.pde.device_kernels"
_DIMENSIONS = EXTENTS - 1
Line = Sequence[int]  # of a kernel's table: three extents, and what is the kernel's own


class OnDevice:
    """Arrays are `DeviceArray`s, and fields are copies of them, made when they are asked for."""

    def __init__(
        self, place: Device, grid: Grid, dtype: np.dtype, threads: int, method: str, kernels: str
    ) -> None:
        if threads > 1:
            raise ConfigError(f"threads={threads}, but steps run on a device: use threads=1")
        self._device = place
        self._grid = grid
        self._dtype = dtype
        self._owned = tuple(
            slice(lo, lo + n) for (lo, _), n in zip(grid.width, grid.owned_shape(), strict=True)
        )
        self._found = place.pinned(8)  # 1 where a kernel found NaN
        self._seekers: dict[tuple[int, ...], Launch] = {}  # by the places of the fields

    def zeros(self, stagger: int | Sequence[int] = 0) -> DeviceArray:
        return self._grid.zeros(self._dtype, stagger, device=self._device)

    def put(self, values: np.ndarray, stagger: int | Sequence[int] | None = None) -> DeviceArray:
        if stagger is None:
            return _copied(self._device, values)
        array = self.zeros(stagger)
        array.set(values)
        return array

    def sweep(
        self,
        kernel: str,
        arrays: Sequence[np.ndarray],
        interior: Slices,
        shell: Sequence[Slices],
        *,
        repeated: str | None = None,
        layout: tuple = (),
        walk: tuple = (),
    ) -> DeviceSweep:
        sweep = DeviceSweep(self, kernel)
        sweep.add(arrays, interior, shell, layout)
        return sweep

    def fill(self, walls: Walls, arrays: Sequence[DeviceArray]) -> Launch:
        """The ghosts of owned cells: not those at edges and corners, which no face needs."""
        lines = []
        for d, edge, ghost, wall in edges(self._grid, walls):
            cells, beyond = (
                (*self._owned[:d], slice(i, i + 1), *self._owned[d + 1 :]) for i in (edge, ghost)
            )
            twice = 0.0 if wall == INSULATED else 2 * float(wall)
            for array in self._device.views(arrays):
                places = *corners([array], beyond), *corners([array], cells)
                what = int(wall == INSULATED), _bits(self._dtype.type(twice))
                lines.append((*_three(cells), *places, *_strides(array), *what))
        return self.launch("wall", lines, arrays)

    def products(self, triples: Sequence[tuple[DeviceArray, ...]]) -> Launch:
        lines = []
        for arrays in triples:
            views = self._device.views(arrays)
            whole = tuple(slice(0, n) for n in views[0].shape)
            pitches = [_strides(view)[1] for view in views]
            lines.append((*_three(whole), *corners(views, whole), *pitches))
        return self.launch("multiply", lines, triples)

    def fields(self, arrays: dict[str, DeviceArray]) -> Copies:
        return Copies(arrays)

    @contextmanager
    def changing(self, fields: Copies) -> Iterator[Mapping[str, np.ndarray]]:
        changes = _Changes(fields.arrays)
        yield changes
        changes.put()

    def has_nan(self, fields: Copies) -> bool:
        flag = self._found.host
        assert flag is not None  # it is pinned
        flag[:] = 0
        arrays = self._device.views([*fields.arrays.values()])
        places = tuple(map(native.address, arrays))
        if places not in self._seekers:
            self._seekers[places] = self._seeker(arrays)
        self._seekers[places]()
        self.synchronize()
        return bool(flag.any())

    def _seeker(self, arrays: Sequence[np.ndarray]) -> Launch:
        lines = []
        for array in arrays:
            owned = tuple(
                slice(lo, n - hi) for n, (lo, hi) in zip(array.shape, self._grid.width, strict=True)
            )
            place = corners([array], owned)
            lines.append((*_three(owned), *place, *_strides(array), self._found.address))
        return self.launch("seek_nan", lines, (arrays, self._found))

    def synchronize(self) -> None:
        self._device.synchronize(self._device.default_stream)

    def launch(self, kernel: str, lines: Sequence[Line], keep: object) -> Launch:
        """A kernel for numbers of the fields' type."""
        return Launch(self._device, kernel, self._dtype, lines, keep)


class DeviceSweep:
    """As `hpckit.pde.sweep.Sweep`, by one launch for the interior and one for the shell."""

    repeats = False

    def __init__(self, backend: OnDevice, kernel: str) -> None:
        self._backend = backend
        self._kernel = kernel
        self._arrays: list[np.ndarray] = []
        self._lines: tuple[list[Line], list[Line]] = [], []

    def add(
        self,
        arrays: Sequence[np.ndarray],
        interior: Slices,
        shell: Sequence[Slices],
        layout: tuple = (),
    ) -> None:
        self._arrays.extend(arrays)
        for lines, boxes in zip(self._lines, ([interior], shell), strict=True):
            lines += [(*_three(box), *corners(arrays, box), *layout) for box in boxes]
        self.interior, self.shell = (
            self._backend.launch(self._kernel, lines, self._arrays) for lines in self._lines
        )

    def repeat(self, *arguments: float) -> None:
        raise NotImplementedError("no kernel makes several steps on a device")


class Launch:
    """A kernel over all boxes of a table, by one launch; none where there are no cells.

    dtype : of the cells, and of what the kernel takes besides the table.
    lines : of the table; see `hpckit.pde.device_kernels`.
    keep : whatever owns the memory at these addresses.
    """

    def __init__(
        self, device: Device, kernel: str, dtype: np.dtype, lines: Sequence[Line], keep: object
    ) -> None:
        self._device = device
        self._kernel = Kernel(_KERNELS, f"{kernel}_f{dtype.itemsize}")
        self._number = dtype.type
        self._prepared: Callable[[], object] = _nothing
        self._numbers: tuple[np.floating, ...] | None = None  # with which it is prepared
        table, threads = [], 0
        for line in lines:
            if _threads(line):
                table.append((threads, *line))
                threads += _threads(line)
        self._blocks = -(-threads // THREADS)
        self._table = _copied(device, np.array(table, np.int64)) if table else None
        _outlive(self, device, (self._table, keep))

    def __call__(self, *arguments: float) -> None:
        """Enqueue it; other arguments than at the call before cost more."""
        numbers = tuple(map(self._number, arguments))
        if numbers != self._numbers:
            self._prepared = self._prepare(numbers)
            self._numbers = numbers
        self._prepared()

    def _prepare(self, numbers: tuple[np.floating, ...]) -> Callable[[], object]:
        if self._table is None:
            return _nothing
        given = self._table.memory.address, self._table.shape[0], *numbers
        stream = self._device.default_stream
        return self._device.prepare(self._kernel, self._blocks, given, stream)


class Copies(Mapping[str, np.ndarray]):
    """Fields on a device, as the host sees them: each time a new copy of what they are then."""

    def __init__(self, arrays: dict[str, DeviceArray]) -> None:
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name].get()

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class _Changes(Copies):
    """Copies that are made once, and put back."""

    def __init__(self, arrays: dict[str, DeviceArray]) -> None:
        super().__init__(arrays)
        self._made: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._made:
            self._made[name] = super().__getitem__(name)
        return self._made[name]

    def put(self) -> None:
        for name, copy in self._made.items():
            self.arrays[name].set(copy)


def _copied(device: Device, values: np.ndarray) -> DeviceArray:
    """An array on the device, of the host's values."""
    from hpckit.comm.device_array import empty  # starts MPI, which importing this must not

    array = empty(device, values.shape, values.dtype)
    array.set(values)
    return array


def _outlive(launch: Launch, device: Device, keep: object) -> None:
    """What it enqueued may not have run when it goes: `keep` lives until then.

    To give memory back at once would wait for the device, which may wait for other ranks.
    """
    from hpckit.collectives.side_stream import passed  # these start MPI, too
    from hpckit.machine.lifetime import leave

    has_run = passed(device, device.default_stream, keep)
    weakref.finalize(launch, leave, has_run).atexit = False


def _nothing() -> None:
    """What a launch does where there are no cells."""


def _three(box: Slices) -> list[int]:
    """Its extents, those of dimensions that it lacks first."""
    return [1] * (_DIMENSIONS - len(box)) + extents(box)


def _strides(array: np.ndarray) -> list[int]:
    """Of the two slower of three dimensions, in elements."""
    strides = [0] * (_DIMENSIONS - array.ndim) + [s // array.itemsize for s in array.strides]
    return strides[:-1]


def _threads(line: Line) -> int:
    """How many a box takes."""
    n0, n1, n2 = line[:_DIMENSIONS]
    return math.prod((n0, -(-n1 // CELLS), n2))


def _bits(number: np.floating) -> int:
    """The bytes of a number in those of an integer."""
    return int.from_bytes(number.tobytes(), "little")
