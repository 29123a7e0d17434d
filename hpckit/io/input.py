"""Read a global array from a file, each rank its own part: .npy, .npz, HDF5 and tables of text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.comm.partition import block
from hpckit.errors import ConfigError, together
from hpckit.io.box import field_box
from hpckit.io.formats import Found, Place, find

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_TAG = 71


def read_field(
    path: str | os.PathLike[str],
    grid: Grid,
    name: str | None = None,
    dtype: DTypeLike = np.float64,
    out: np.ndarray | None = None,
    finite: bool = True,
) -> np.ndarray:
    """This rank's box of a global array of shape `grid.shape` (collective).

    Plain arrays (.npy, contiguous HDF5 datasets) are mapped into memory and each rank reads its box; what is compressed
    or chunked (.npz, other HDF5 datasets) is read by rank 0, which sends the boxes.

    Parameters
    ----------
    name : the array in a .npz file or the path of the dataset in an HDF5 file; may be left out where there is just one.
    dtype : of the result; the values are converted where no kind of number is lost (int to float, not float to int).
    out : write to this array, such as `u[grid.owned]`, instead of a new one.
    finite : NaN and infinite values are an error.

    Raises `ConfigError` on all ranks when the file or the array is missing, damaged or of another shape.
    """
    comm, path = grid.comm, Path(path)
    found: Found | None = None
    with together(comm):
        if grid.rank == 0:
            found = find(path, name)
            _check(path, found, grid, np.dtype(dtype))
    where: Place = comm.bcast(found and found.place)
    with together(comm):
        out = _target(grid, out, np.dtype(dtype))
        if where.offset is not None:
            out[...] = _mapped(path, where)[_slices(grid, grid.rank)]
    if where.offset is None:
        _scatter(path, comm, found, where, [_slices(grid, rank) for rank in range(grid.size)], out)
    if finite:
        with together(comm):
            _check_finite(path, out)
    return out


def read_rows(
    path: str | os.PathLike[str],
    comm: MPI.Intracomm,
    name: str | None = None,
    columns: tuple[int, int] | None = None,
) -> np.ndarray:
    """This rank's block of the rows of a table, (m, columns), none on ranks too many (collective).

    Read as by `read_field`, but with the file's type, and mapped rows stay so: they take no memory until looked at.
    Tables of text (.csv, .tsv, .txt, .data) are float64, and columns, their first and the one after their last, may be
    chosen.
    """
    path, found = Path(path), None
    with together(comm):
        if comm.rank == 0:
            found = find(path, name, columns)
            _check_table(path, found)
    where: Place = comm.bcast(found and found.place)
    parts = [(slice(*block(where.shape[0], comm.size, rank)),) for rank in range(comm.size)]
    mine = parts[comm.rank]
    rows = np.empty((0, 0))
    with together(comm):
        rows = np.empty(_shape(mine, where), where.dtype) if where.offset is None else _mapped(path, where)[mine]
    if where.offset is None:
        _scatter(path, comm, found, where, parts, rows)
    return rows


def _check(path: Path, found: Found, grid: Grid, dtype: np.dtype) -> None:
    shape, its = found.place.shape, found.place.dtype
    if shape != grid.shape:
        raise ConfigError(f"{path}: {found.name} has shape {shape}, but the grid has shape {grid.shape}")
    if not np.can_cast(its, dtype, "same_kind"):
        raise ConfigError(f"{path}: {found.name} is {its}, which cannot become {dtype} without loss")


def _check_table(path: Path, found: Found) -> None:
    shape, dtype = found.place.shape, found.place.dtype
    if len(shape) != 2 or 0 in shape:
        raise ConfigError(f"{path}: {found.name} has shape {shape}, but a table has rows and columns")
    if dtype.kind not in "biuf":
        raise ConfigError(f"{path}: {found.name} is {dtype}, but a table has real numbers")


def _target(grid: Grid, out: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    shape = grid.owned_shape()
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ConfigError(f"out is {out.dtype} {out.shape}, but this rank's box is {dtype} {shape}: use u[grid.owned]")
    return out


def _slices(grid: Grid, rank: int) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*field_box(grid, rank, (0,) * grid.ndim), strict=True))


def _mapped(path: Path, where: Place) -> np.ndarray:
    return np.memmap(path, where.dtype, "r", where.offset or 0, where.shape, where.order)


def _shape(part: tuple[slice, ...], where: Place) -> tuple[int, ...]:
    return (*(each.stop - each.start for each in part), *where.shape[len(part) :])


def _scatter(
    path: Path, comm: MPI.Intracomm, found: Found | None, where: Place, parts: Sequence[tuple], out: np.ndarray
) -> None:
    """Rank 0 reads part after part and sends each to its rank, as the bytes that are in the file."""
    error, box = None, np.empty(out.shape, where.dtype)
    if found is not None:
        for rank in reversed(range(comm.size)):
            box = np.zeros(_shape(parts[rank], where), where.dtype)
            try:
                box[...] = found.data[parts[rank]]
            except Exception as caught:  # a damaged file; the other ranks wait for their parts all the same
                error = ConfigError(f"cannot read {path}: {caught}; is it cut short or damaged?")
            if rank:
                comm.Send(_bytes(box), rank, _TAG)
    else:
        comm.Recv(_bytes(box), 0, _TAG)
    out[...] = box
    with together(comm):
        if error:
            raise error


def _bytes(box: np.ndarray) -> list:
    """A message of rows of bytes, so that counts stay below 2^31."""
    row = MPI.BYTE.Create_contiguous(box.shape[-1] * box.itemsize).Commit()
    return [box, box.size // box.shape[-1], row]


def _check_finite(path: Path, values: np.ndarray) -> None:
    bad = values.size - np.count_nonzero(np.isfinite(values)) if values.dtype.kind in "fc" else 0
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ConfigError(
            f"{path}: {bad} values of {values.size} are NaN or infinite, the first at {first} of this box"
        )
