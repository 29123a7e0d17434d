"""How data of a `FieldFile` reach the disk: per layout a class with write, sync, close, drop.

`write` is collective; `drop` lets go of the file on one rank after an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.comm.staggering import Stagger
from hpckit.errors import ConfigError, HpckitError, together
from hpckit.io import vtkhdf
from hpckit.io.box import Slabs, field_box

_LONGEST = 1 << 30  # bytes per MPI call: Open MPI 5 counts in 32 bits


class OneFile:
    """All ranks write one file: the boxes are regrouped into slabs, each one long write."""

    def __init__(
        self,
        grid: Grid,
        file: Path,
        contents: vtkhdf.Contents,
        stagger: Mapping[str, Stagger],
        offsets: vtkhdf.Offsets,
    ) -> None:
        self._comm, self._file, self._handle = grid.comm, file, _open(file)
        self._slabs = {
            field.name: Slabs(grid, stagger[field.name], field.dtype) for field in contents.fields
        }
        # New memory for every step would cost more than the exchange.
        self._scratch = np.empty(
            (2, max((slabs.nbytes for slabs in self._slabs.values()), default=0)), np.uint8
        )
        self._stride = {field.name: field.step_bytes for field in contents.fields}
        self._offset = offsets.fields[0]

    def write(self, step: int, name: str, box: np.ndarray) -> None:
        slabs = self._slabs[name]
        slab = slabs.regroup(box, self._scratch)
        row = self._stride[name] // slabs.rows_of_all
        with together(self._comm):
            _write(
                self._handle,
                self._offset[name] + step * self._stride[name] + slabs.rows[0] * row,
                slab,
                self._file,
            )

    def sync(self) -> None:
        _flush(self._handle.Sync, self._file)

    def close(self) -> None:
        _flush(self._handle.Close, self._file)

    drop = close


class OwnFiles:
    """Each rank writes its boxes to a file of its own."""

    def __init__(
        self,
        grid: Grid,
        _file: Path,
        contents: vtkhdf.Contents,
        _stagger: Mapping[str, Stagger],
        offsets: vtkhdf.Offsets,
    ) -> None:
        self._comm, self._file = grid.comm, contents.parts[grid.rank].file
        self._handle, self._offset = _open(self._file), offsets.fields[grid.rank]

    def write(self, step: int, name: str, box: np.ndarray) -> None:
        with together(self._comm):
            _write(self._handle, self._offset[name] + step * box.nbytes, box, self._file)

    def sync(self) -> None:
        _flush(self._handle.Sync, self._file)

    def close(self) -> None:
        _flush(self._handle.Close, self._file)

    drop = close


class ParallelHDF5:
    """h5py's mpio driver, where h5py was built on a parallel HDF5."""

    def __init__(
        self,
        grid: Grid,
        file: Path,
        contents: vtkhdf.Contents,
        stagger: Mapping[str, Stagger],
        _offsets: vtkhdf.Offsets,
    ) -> None:
        import h5py

        self._comm, self._handle = grid.comm, h5py.File(file, "r+", driver="mpio", comm=grid.comm)
        self._path = {field.name: field.path for field in contents.fields}
        boxes = {name: field_box(grid, grid.rank, its) for name, its in stagger.items()}
        self._box = {
            name: tuple(slice(a, b) for a, b in zip(*box, strict=True))
            for name, box in boxes.items()
        }

    def write(self, step: int, name: str, box: np.ndarray) -> None:
        dataset: Any = self._handle[self._path[name]]
        with together(self._comm), dataset.collective:
            dataset[(step, *self._box[name])] = box

    def sync(self) -> None:
        self._handle.flush()

    def close(self) -> None:
        self._handle.close()

    def drop(self) -> None:
        """Nothing: closing needs all ranks."""


OUTPUTS = {"mpi": OneFile, "files": OwnFiles, "h5py": ParallelHDF5}


class Times:
    """The times of the steps, written in place by rank 0."""

    def __init__(self, file: Path, offset: int) -> None:
        self._file, self._descriptor, self._offset = file, os.open(file, os.O_WRONLY), offset

    def write(self, step: int, time: float) -> None:
        _flush(
            lambda: os.pwrite(
                self._descriptor, np.float64(time).tobytes(), self._offset + 8 * step
            ),
            self._file,
        )

    def forget(self, steps: Iterable[int]) -> None:
        """The data of these steps are about to be written anew."""
        for step in steps:
            self.write(step, np.nan)

    def sync(self) -> None:
        _flush(lambda: os.fsync(self._descriptor), self._file)

    def close(self) -> None:
        os.close(self._descriptor)

    drop = close


def _flush(action: Callable[[], object], file: Path) -> None:
    try:
        action()
    except (MPI.Exception, OSError) as error:
        raise HpckitError(f"cannot write {file}: {error}") from None


def _open(file: Path) -> MPI.File:
    """Open for this rank alone: a rank that fails leaves nobody waiting."""
    try:
        return MPI.File.Open(MPI.COMM_SELF, str(file), MPI.MODE_WRONLY)
    except MPI.Exception as error:
        raise ConfigError(
            f"cannot open {file}: {error}: is its folder on a disk that all nodes share?"
        ) from None


def _write(handle: MPI.File, offset: int, array: np.ndarray, file: Path) -> None:
    data = array.reshape(-1).view(np.uint8)
    for start in range(0, data.size, _LONGEST):
        piece = data[start : start + _LONGEST]
        status, reason = MPI.Status(), "is the disk full?"
        try:
            handle.Write_at(offset + start, piece, status)
        except MPI.Exception as error:
            reason = str(error)
        if status.Get_count(MPI.BYTE) != piece.size:
            raise HpckitError(
                f"cannot write {piece.size} bytes at {offset + start} of {file}: {reason}"
            )
