"""Find an array in a file, whose format its first bytes tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpckit.errors import ConfigError
from hpckit.io import text
from hpckit.io.cf import Packing, default_fill, packing

_HDF5 = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS = tuple(
    512 << n for n in range(8)
)  # where an HDF5 file may begin, too: MATLAB's do at 512
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Formats of others, by their first bytes, and the command that makes something of them that is read
# here.
_FOREIGN = {
    b"CDF\x05": "netCDF-5: nccopy -k nc4 IN OUT.nc",
    b"\x0e\x03\x13\x01": "HDF4: h4toh5 IN OUT.h5",
    b"GRIB": "GRIB: gdal_translate -of netCDF IN OUT.nc",
    b"DSAA": "a Surfer grid: gdal_translate -of netCDF IN OUT.nc",
    b"DSBB": "a Surfer grid: gdal_translate -of netCDF IN OUT.nc",
    b"DSRB": "a Surfer grid: gdal_translate -of netCDF IN OUT.nc",
    b"MATLAB 5": "a MATLAB file before 7.3: save -v7.3 in MATLAB makes HDF5",
    b"\x1f\x8b": "compressed by gzip: gunzip IN",
    b"BZh": "compressed by bzip2: bunzip2 IN",
    b"\xfd7zXZ": "compressed by xz: unxz IN",
    b"PK": "a zip archive, but no .npz: unzip IN",
}


@dataclass(frozen=True)
class Location:
    """What the ranks need to know.

    offset : bytes, where the array lies plainly in the file, else None
    packing : how its numbers become values, where they are not values yet
    lead : which entry of the first dimensions is meant, where there are more than asked for
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None = None
    order: Literal["C", "F"] = "C"
    packing: Packing | None = None
    lead: tuple[int, ...] = ()

    @property
    def meant(self) -> np.dtype:
        """The type of the values."""
        return self.packing.dtype if self.packing else self.dtype


@dataclass(frozen=True)
class FileArray:
    """An array in a file: `data` takes slices, `check(lead)` raises where what is wanted lacks.

    north_up : the file says that its rows run from north to south
    """

    name: str
    data: Any
    location: Location
    check: Callable[[tuple[int, ...]], None] = lambda lead: None
    north_up: bool = False


def find(path: Path, name: str | None, columns: tuple[int, int] | None = None) -> FileArray:
    """The array of that name, or the only one; `ConfigError` for missing or damaged files.

    columns : first column, and the one after the last, to read of a table of text
    """
    if columns and not text.is_table(path):
        raise ConfigError(
            f"{path}: columns can be chosen of tables of text only ({', '.join(text.ENDINGS)})"
        )
    try:
        with path.open("rb") as file:
            head = file.read(8)
        return _found(path, head, name, columns)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except OSError as error:
        if error.filename is not None or error.errno:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
        raise _damaged(path, error) from error
    except Exception as error:  # the libraries raise all kinds of errors on damaged files
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot read {path}: {type(error).__name__}: {error}; is it cut short or damaged?"
    )


def _found(path: Path, head: bytes, name: str | None, columns: tuple[int, int] | None) -> FileArray:
    if head.startswith(b"\x93NUMPY"):
        return _in_npy(path)
    if head.startswith(b"PK") and path.suffix != ".zip":
        return _in_npz(path, name)
    if head == _HDF5 or _begins_later(path):
        return _in_hdf5(path, name)
    if head.startswith((b"CDF\x01", b"CDF\x02")):
        return _in_netcdf3(path, name)
    if head.startswith(_TIFF):
        return _in_tiff(path)
    if text.is_grid(path):
        return _in_grid(path)
    if text.is_table(path):
        data = text.read_table(path, columns)
        return FileArray(path.name, data, Location(data.shape, data.dtype))
    foreign = next((hint for start, hint in _FOREIGN.items() if head.startswith(start)), None)
    if foreign:
        raise ConfigError(f"{path} is {foreign.replace('IN', str(path))}")
    raise ConfigError(
        f"{path} is neither .npy nor .npz nor HDF5, netCDF, GeoTIFF or an ESRI ASCII grid, nor "
        "text by its name"
        f" ({', '.join(text.ENDINGS)}): its first bytes are {head!r}; gdal_translate -of netCDF "
        "may convert it"
    )


def _in_npy(path: Path) -> FileArray:
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    order = "C" if data.flags.c_contiguous else "F"
    return FileArray(path.name, data, Location(data.shape, data.dtype, data.offset, order))


def _in_npz(path: Path, name: str | None) -> FileArray:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        chosen = _choose(path, name, list(arrays.files))
        data = arrays[chosen]
    return FileArray(chosen, data, Location(data.shape, data.dtype))


def _begins_later(path: Path) -> bool:
    with path.open("rb") as file:
        return any(file.seek(at) == at and file.read(8) == _HDF5 for at in _USER_BLOCKS)


def _in_hdf5(path: Path, name: str | None) -> FileArray:
    from hpckit.io import hdf5

    data = hdf5.open_dataset(path, name, _choose)
    how = hdf5.read_packing(path, data)
    if data.external:
        return FileArray(
            str(data.name), hdf5.external(data), Location(data.shape, data.dtype, packing=how)
        )
    location = Location(data.shape, data.dtype, hdf5.plain_offset(path, data), packing=how)
    return FileArray(
        str(data.name),
        data,
        location,
        lambda lead: hdf5.check_written(data, lead, how.missing if how else ()),
    )


def _in_netcdf3(path: Path, name: str | None) -> FileArray:
    from scipy.io import netcdf_file

    with netcdf_file(path, "r", mmap=False) as file:
        fields = [
            key for key, its in file.variables.items() if its.shape and its.dimensions != (key,)
        ]
        names = fields if name is None else list(file.variables)
        chosen = _choose(path, name and name.strip("/"), names)
        variable = file.variables[chosen]
        data = np.asarray(variable[...])
        how = packing(
            f"{path}: {chosen}", variable._attributes, data.dtype, default_fill(data.dtype)
        )
    return FileArray(chosen, data, Location(data.shape, data.dtype, packing=how))


def _in_tiff(path: Path) -> FileArray:
    try:
        from hpckit.io import geotiff
    except ImportError:
        raise ConfigError(
            f"{path} is a TIFF: pip install tifffile, or gdal_translate -of netCDF {path} OUT.nc"
        ) from None
    data, attributes, north_up = geotiff.read(path)
    how = packing(str(path), attributes, data.dtype)
    return FileArray(
        path.name, data, Location(data.shape, data.dtype, packing=how), north_up=north_up
    )


def _in_grid(path: Path) -> FileArray:
    data, nothing = text.read_grid(path)
    how = packing(str(path), {"_FillValue": nothing}, data.dtype)
    location = Location(data.shape, data.dtype, packing=how)
    return FileArray(path.name, data, location, north_up=True)


def _choose(path: Path, name: str | None, names: list[str]) -> str:
    if name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    wanted = "more than one array" if name is None else f"no array {name!r}"
    listed = ", ".join(names) or "none at all"
    raise ConfigError(
        f"{path} has {wanted if names else 'no array'}: give one of these names: {listed}"
    )
