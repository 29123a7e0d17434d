"""Read a global array from a file, each rank its own part; `hpckit.io.formats` says which files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from operator import index as as_index
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.comm.partition import block
from hpckit.errors import ConfigError, same, together
from hpckit.io.box import check_array, field_box
from hpckit.io.formats import FileArray, Location, find

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
    index: int | Sequence[int] | None = None,
    first_row: Literal["north", "south"] | None = None,
) -> np.ndarray:
    """This rank's box of a global array of shape `grid.shape` (collective).

    ::

        u = grid.zeros()
        read_field("relief.nc", grid, "elevation", out=u[grid.owned])

    Plain arrays (.npy, contiguous HDF5 datasets) are mapped into memory and each rank reads its
    box; what is compressed or chunked (.npz, other HDF5 datasets) is read by rank 0, which sends
    the boxes. What the attributes of netCDF say is done (see `hpckit.io.cf`): values are scaled,
    missing ones are NaN.

    Parameters
    ----------
    name : the array in a .npz file or the path of the dataset in an HDF5 file; may be left out
        where there is just one.
    dtype : of the result; the values are converted where no kind of number is lost (int to float,
        not float to int).
    out : write to this array, such as `u[grid.owned]`, instead of a new one.
    finite : NaN and infinite values are an error.
    index : which entry of the first dimensions, such as time, where the file has more dimensions
        than the grid; -1 is the last one. May be left out where they are of length 1.
    first_row : the edge of the map where rows are to begin. GeoTIFF and ASCII grids say where
        theirs do, and are turned if need be; of others the rows, as with None, stay as they are.

    Raises `ConfigError` on all ranks when the file or the array is missing, damaged, not written in
    full or of another shape, or ranks ask for different things.
    """
    comm, found = grid.comm, None
    with together(comm):
        path, kind = Path(path), np.dtype(dtype)
        chosen = (
            None
            if index is None
            else tuple(map(as_index, index if isinstance(index, Sequence) else [index]))
        )
        if out is not None:
            check_array("out", out)
        if first_row not in (None, "north", "south"):
            raise ConfigError(f"first_row={first_row!r} must be 'north', 'south' or None")
    same(comm, "the arguments of read_field", (path, name, kind, bool(finite), chosen, first_row))
    with together(comm):
        if grid.rank == 0:
            found = _turned(_chosen(path, find(path, name), grid.shape, chosen), first_row)
            _check_type(path, found, kind)
    where: Location = comm.bcast(found and found.location)
    with together(comm):
        out = _target(grid, out, kind)
        if where.offset is not None:
            _fill(out, _mapped(path, where)[(*where.lead, *_slices(grid, grid.rank))], where)
    if where.offset is None:
        _scatter(path, comm, found, where, [_slices(grid, rank) for rank in range(grid.size)], out)
    if finite:
        _check_finite(path, grid, where, out)
    return out


def read_rows(
    path: str | os.PathLike[str],
    comm: MPI.Intracomm,
    name: str | None = None,
    columns: tuple[int, int] | None = None,
) -> np.ndarray:
    """This rank's block of the rows of a table, (m, columns), none on ranks too many (collective).

    ::

        points = read_rows("iris.csv", comm, columns=(0, 4))

    Read as by `read_field`, but with the file's type, and mapped rows stay so: they take no memory
    until looked at. Tables of text (.csv, .tsv, .txt, .data) are float64, and columns, their first
    and the one after their last, may be chosen. Raises `ConfigError` on all ranks as `read_field`
    does, and where a number is marked as missing.
    """
    found = None
    with together(comm):
        path = Path(path)
        columns = columns and (as_index(columns[0]), as_index(columns[1]))
    same(comm, "the arguments of read_rows", (path, name, columns))
    with together(comm):
        if comm.rank == 0:
            found = find(path, name, columns)
            _check_table(path, found)
            found.check(())
    where: Location = comm.bcast(found and found.location)
    parts = [(slice(*block(where.shape[0], comm.size, rank)),) for rank in range(comm.size)]
    mine = parts[comm.rank]
    plain, dtype = where.offset is not None and where.packing is None, _with_nan(where)
    rows, missing = np.empty((0, 0)), 0
    with together(comm):
        rows = _mapped(path, where)[mine] if plain else np.empty(_shape(mine, where), dtype)
        if where.offset is not None and not plain:
            missing = _fill(rows, _mapped(path, where)[mine], where)
    if where.offset is None:
        missing = _scatter(path, comm, found, where, parts, rows)
    if where.packing and (missing := comm.allreduce(missing)):
        raise ConfigError(
            f"{path}: {missing} of {math.prod(where.shape)} values are missing ({where.packing}):"
            " a table needs them all"
        )
    return rows


def _chosen(
    path: Path, found: FileArray, shape: tuple[int, ...], index: tuple[int, ...] | None
) -> FileArray:
    """The array with the entry of its first dimensions that is meant, checked to be there."""
    its = found.location.shape
    more, rest = its[: len(its) - len(shape)], its[max(0, len(its) - len(shape)) :]
    if rest != shape:
        raise ConfigError(f"{path}: {found.name} has shape {its}, but the grid has shape {shape}")
    lead = (0,) * len(more) if index is None and set(more) <= {1} else index or ()
    if len(lead) != len(more) or not all(-n <= i < n for i, n in zip(lead, more, strict=True)):
        ask = (
            f"index must be one of 0 to {more[0] - 1}"
            if len(more) == 1
            else f"index must choose from {more}"
        )
        raise ConfigError(
            f"{path}: {found.name} has shape {its}, but the grid has shape {shape}:"
            f" {ask if more else 'there is nothing to choose by an index'}, not {index}"
        )
    lead = tuple(i % n for i, n in zip(lead, more, strict=True))
    found.check(lead)
    return replace(found, location=replace(found.location, lead=lead))


def _turned(found: FileArray, first_row: str | None) -> FileArray:
    """With its rows from the other edge, where it says that they run from north to south."""
    if not (found.north_up and first_row == "south"):
        return found
    return replace(found, data=found.data[..., ::-1, :], north_up=False)


def _check_type(path: Path, found: FileArray, dtype: np.dtype) -> None:
    its = found.location.meant
    if not np.can_cast(its, dtype, "same_kind"):
        raise ConfigError(
            f"{path}: {found.name} is {its}, which cannot become {dtype} without loss"
        )


def _check_table(path: Path, found: FileArray) -> None:
    shape, dtype = found.location.shape, found.location.meant
    if len(shape) != 2 or 0 in shape:
        raise ConfigError(
            f"{path}: {found.name} has shape {shape}, but a table has rows and columns"
        )
    if dtype.kind not in "biuf":
        raise ConfigError(f"{path}: {found.name} is {dtype}, but a table has real numbers")


def _target(grid: Grid, out: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    shape = grid.owned_shape()
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ConfigError(
            f"out is {out.dtype} {out.shape}, but this rank's box is {dtype} {shape}: use "
            "u[grid.owned]"
        )
    return out


def _slices(grid: Grid, rank: int) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*field_box(grid, rank, (0,) * grid.ndim), strict=True))


def _mapped(path: Path, where: Location) -> np.ndarray:
    return np.memmap(path, where.dtype, "r", where.offset or 0, where.shape, where.order)


def _shape(part: tuple[slice, ...], where: Location) -> tuple[int, ...]:
    return (*(each.stop - each.start for each in part), *where.shape[len(where.lead) + len(part) :])


def _with_nan(where: Location) -> np.dtype:
    """The type of values of which some may be missing."""
    return where.meant if where.packing is None or where.meant.kind == "f" else np.dtype(float)


def _fill(out: np.ndarray, numbers: np.ndarray, where: Location) -> int:
    """Write the values that these numbers stand for; returns how many are missing."""
    if where.packing:
        return where.packing.unpack(numbers, out)
    out[...] = numbers
    return 0


def _scatter(
    path: Path,
    comm: MPI.Intracomm,
    found: FileArray | None,
    where: Location,
    parts: Sequence[tuple],
    out: np.ndarray,
) -> int:
    """Rank 0 reads part after part and sends each to its rank, as the file has it."""
    error, box = None, np.empty(out.shape, where.dtype)
    if found is not None:
        for rank in reversed(range(comm.size)):
            box = np.zeros(_shape(parts[rank], where), where.dtype)
            try:
                box[...] = found.data[(*where.lead, *parts[rank])]
            except (
                Exception
            ) as caught:  # a damaged file; the other ranks wait for their parts all the same
                error = ConfigError(f"cannot read {path}: {caught}; is it cut short or damaged?")
            if rank:
                comm.Send(_bytes(box), rank, _TAG)
    else:
        comm.Recv(_bytes(box), 0, _TAG)
    with together(comm):
        if error:
            raise error
        return _fill(out, box, where)
    raise AssertionError("unreachable")


def _bytes(box: np.ndarray) -> list:
    """A message of rows of bytes, so that counts stay below 2^31."""
    row = MPI.BYTE.Create_contiguous(box.shape[-1] * box.itemsize).Commit()
    return [box, box.size // box.shape[-1], row]


def _check_finite(path: Path, grid: Grid, where: Location, values: np.ndarray) -> None:
    """Raise `ConfigError` on all ranks unless all values are finite; says where they are not."""
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    first = math.prod(grid.shape)
    if count:
        cell = np.add(np.unravel_index(int(bad.argmax()), values.shape), grid.start)
        first = int(np.ravel_multi_index(tuple(cell), grid.shape))
    total = grid.comm.allreduce(count)
    if total:
        first = grid.comm.allreduce(first, MPI.MIN)
        cell = tuple(map(int, np.unravel_index(first, grid.shape)))
        marks = str(where.packing or "")
        raise ConfigError(
            f"{path}: {total} values of {math.prod(grid.shape)} are NaN or infinite, the first at "
            f"{cell}"
            + f"; missing are those {marks}" * bool(marks)
            + ": give values to them, or read with finite=False where NaN is right"
        )
