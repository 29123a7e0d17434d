"""Find an array in a file: .npy, .npz and HDF5, recognised by their first bytes, and tables of numbers as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpckit.errors import ConfigError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TEXT = (".csv", ".tsv", ".txt", ".data")


@dataclass(frozen=True)
class Place:
    """What the ranks need to know; `offset` in bytes where the array lies plainly in the file, else None."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None = None
    order: Literal["C", "F"] = "C"


@dataclass(frozen=True)
class Found:
    """An array in a file; `data` can be indexed with slices."""

    name: str
    data: Any
    place: Place


def find(path: Path, name: str | None, columns: tuple[int, int] | None = None) -> Found:
    """The array of that name, or the only one there is; raises `ConfigError` where the file is missing or damaged.

    columns : first column, and the one after the last, to read of a table of text
    """
    if columns and path.suffix not in _TEXT:
        raise ConfigError(f"{path}: columns can be chosen of tables of text only ({', '.join(_TEXT)})")
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"\x93NUMPY"):
            return _in_npy(path)
        if head.startswith(b"PK"):
            return _in_npz(path, name)
        if head == _HDF5:
            return _in_hdf5(path, name)
        if path.suffix in _TEXT:
            return _in_text(path, columns)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except Exception as error:  # the libraries raise all kinds of errors on damaged files
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}: {error}; is it cut short or damaged?"
        ) from error
    raise ConfigError(
        f"{path} is neither .npy nor .npz nor HDF5, nor text by its name ({', '.join(_TEXT)}):"
        f" its first bytes are {head!r}"
    )


def _in_npy(path: Path) -> Found:
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    order = "C" if data.flags.c_contiguous else "F"
    return Found(path.name, data, Place(data.shape, data.dtype, data.offset, order))


def _in_npz(path: Path, name: str | None) -> Found:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        name = _choose(path, name, list(arrays.files))
        data = arrays[name]
    return Found(name, data, Place(data.shape, data.dtype))


def _in_hdf5(path: Path, name: str | None) -> Found:
    import h5py

    file = h5py.File(path, "r")  # closed when the dataset is no longer needed
    names: list[str] = []
    file.visititems(lambda key, item: names.append(key) if isinstance(item, h5py.Dataset) else None)
    data: Any = file[_choose(path, name and name.strip("/"), names)]
    plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.external
    offset = data.id.get_offset() if plain else None
    if offset is not None and offset + data.nbytes > path.stat().st_size:
        raise ConfigError(f"{path} is cut short: {data.name} ends at byte {offset + data.nbytes}")
    return Found(data.name, data, Place(data.shape, data.dtype, offset))


def _in_text(path: Path, columns: tuple[int, int] | None) -> Found:
    """Numbers between commas, semicolons, tabs or blanks, all float64; a first line that holds none is a header."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    separator = next((mark for mark in ",;\t" if mark in first), None)
    wanted = first.split(separator)[slice(*columns) if columns else slice(None)]
    try:
        how = {"delimiter": separator, "skiprows": int(not any(map(_number, wanted))), "ndmin": 2}
        data = np.loadtxt(path, usecols=range(*columns) if columns else None, **how)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}: choose the columns that hold numbers") from None
    return Found(path.name, data, Place(data.shape, data.dtype))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _choose(path: Path, name: str | None, names: list[str]) -> str:
    if name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    wanted = "more than one array" if name is None else f"no array {name!r}"
    listed = ", ".join(names) or "none at all"
    raise ConfigError(f"{path} has {wanted if names else 'no array'}: give one of these names: {listed}")
