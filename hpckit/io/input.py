"""Read a global array from a file, each rank its own box: .npy, .npz and HDF5."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, together
from hpckit.io.box import field_box

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_HDF5 = b"\x89HDF\r\n\x1a\n"
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
    found: _Found | None = None
    with together(comm):
        if grid.rank == 0:
            found = _find(path, name)
            _check(path, found, grid, np.dtype(dtype))
    where: _Place = comm.bcast(found and found.place)
    with together(comm):
        out = _target(grid, out, np.dtype(dtype))
        if where.offset is not None:
            mapped = np.memmap(path, where.dtype, "r", where.offset, grid.shape, where.order)
            out[...] = mapped[_slices(grid, grid.rank)]
    if where.offset is None:
        _scatter(path, grid, found, where.dtype, out)
    if finite:
        with together(comm):
            _check_finite(path, out)
    return out


@dataclass(frozen=True)
class _Place:
    """What the other ranks need to know; `offset` in bytes where the array lies plainly in the file, else None."""

    dtype: np.dtype
    offset: int | None = None
    order: Literal["C", "F"] = "C"


@dataclass(frozen=True)
class _Found:
    """The array as rank 0 found it; `data` can be indexed with slices."""

    name: str
    shape: tuple[int, ...]
    data: Any
    place: _Place


def _find(path: Path, name: str | None) -> _Found:
    """Recognise the file by its first bytes and find the array in it."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"\x93NUMPY"):
            return _in_npy(path)
        if head.startswith(b"PK"):
            return _in_npz(path, name)
        if head == _HDF5:
            return _in_hdf5(path, name)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except Exception as error:  # the libraries raise all kinds of errors on damaged files
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}: {error}; is it cut short or damaged?"
        ) from error
    raise ConfigError(f"{path} is neither .npy nor .npz nor HDF5: its first bytes are {head!r}")


def _in_npy(path: Path) -> _Found:
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    order = "C" if data.flags.c_contiguous else "F"
    return _Found(path.name, data.shape, data, _Place(data.dtype, data.offset, order))


def _in_npz(path: Path, name: str | None) -> _Found:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        name = _choose(path, name, list(arrays.files))
        data = arrays[name]
    return _Found(name, data.shape, data, _Place(data.dtype))


def _in_hdf5(path: Path, name: str | None) -> _Found:
    import h5py

    file = h5py.File(path, "r")  # closed when the dataset is no longer needed
    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    data: Any = file[_choose(path, name and name.strip("/"), names)]
    plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.external
    offset = data.id.get_offset() if plain else None
    if offset is not None and offset + data.nbytes > path.stat().st_size:
        raise ConfigError(f"{path} is cut short: {data.name} ends at byte {offset + data.nbytes}")
    return _Found(data.name, data.shape, data, _Place(data.dtype, offset))


def _choose(path: Path, name: str | None, names: list[str]) -> str:
    if name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    wanted = "more than one array" if name is None else f"no array {name!r}"
    listed = ", ".join(names) or "none at all"
    raise ConfigError(f"{path} has {wanted if names else 'no array'}: give one of these names: {listed}")


def _check(path: Path, found: _Found, grid: Grid, dtype: np.dtype) -> None:
    if found.shape != grid.shape:
        raise ConfigError(f"{path}: {found.name} has shape {found.shape}, but the grid has shape {grid.shape}")
    if not np.can_cast(found.place.dtype, dtype, "same_kind"):
        raise ConfigError(f"{path}: {found.name} is {found.place.dtype}, which cannot become {dtype} without loss")


def _target(grid: Grid, out: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
    shape = grid.owned_shape()
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ConfigError(f"out is {out.dtype} {out.shape}, but this rank's box is {dtype} {shape}: use u[grid.owned]")
    return out


def _slices(grid: Grid, rank: int) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(*field_box(grid, rank, (0,) * grid.ndim), strict=True))


def _scatter(path: Path, grid: Grid, found: _Found | None, dtype: np.dtype, out: np.ndarray) -> None:
    """Rank 0 reads box after box and sends each to its rank, as the bytes that are in the file."""
    error = None
    if found is not None:
        for rank in reversed(range(grid.size)):
            box = np.zeros([b - a for a, b in zip(*grid.box(rank), strict=True)], dtype)
            try:
                box[...] = found.data[_slices(grid, rank)]
            except Exception as caught:  # a damaged file; the other ranks wait for their boxes all the same
                error = ConfigError(f"cannot read {path}: {caught}; is it cut short or damaged?")
            if rank:
                grid.comm.Send(_bytes(box), rank, _TAG)
            else:
                out[...] = box
    else:
        box = np.empty(out.shape, dtype)
        grid.comm.Recv(_bytes(box), 0, _TAG)
        out[...] = box
    with together(grid.comm):
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
