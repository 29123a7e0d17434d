"""Distances in an HDF5 file: one contiguous dataset `ticks`, mapped, larger than memory if so.

Attributes of the dataset say what it is of, and that distance = ticks * 2**exponent. A new file is
made beside its name and takes it when it is complete; it is kept, and a later run that wants the
same distances uses it again. The file system must keep maps coherent between the nodes of the
ranks, as local ones, Lustre and GPFS do, but not NFS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError
from hpckit.files import durable_replace

ENDINGS = (".h5", ".hdf5")
_NAME = "ticks"


class TicksFile:
    """Distances that are mapped into memory.

    ticks : (rows, columns) float32, all of the dataset; complete : whether all of it is there
        already (collective).

    content : says what the distances are of; None where that cannot be told, so that they are
        always written anew
    """

    def __init__(
        self, path: Path, shape: tuple[int, int], content: str | None, exponent: int, ranks: Ranks
    ) -> None:
        self._path = path
        self._draft = path.with_name(path.name + ".part")
        self._ranks = ranks
        found = (False, 0)
        with ranks.together():
            if ranks.rank == 0:
                found = _find(path, shape, content, exponent)
                found = found if found[0] else (False, _make(self._draft, shape, content, exponent))
        self.complete, offset = ranks.gather(found)[0]
        with ranks.together():
            name, mode = (path, "r") if self.complete else (self._draft, "r+")
            self.ticks = np.memmap(name, np.float32, mode, offset, shape)

    def finish(self) -> None:
        """All ranks have written their part (collective)."""
        with self._ranks.together():
            self.ticks.flush()
        with self._ranks.together():
            if self._ranks.rank == 0:
                durable_replace(self._draft, self._path)


def _find(
    path: Path, shape: tuple[int, int], content: str | None, exponent: int
) -> tuple[bool, int]:
    """Whether the file has these distances, and where they begin; `ConfigError` if not ours."""
    import h5py

    if not path.exists():
        return False, 0
    try:
        with h5py.File(path) as file:
            ticks: Any = file[_NAME]
            found = ticks.attrs["content"], ticks.attrs["exponent"], ticks.shape
            return found == (content, exponent, shape), ticks.id.get_offset()
    except (OSError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"memory={path} exists, but is no file of distances: use another name ({error})"
        ) from error


def _make(path: Path, shape: tuple[int, int], content: str | None, exponent: int) -> int:
    """A new file with room on the disk for the distances; where they begin."""
    import h5py

    size = 4 * shape[0] * shape[1]
    try:
        with h5py.File(path, "w") as file:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_layout(h5py.h5d.CONTIGUOUS)
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple(shape)
            made = h5py.Dataset(
                h5py.h5d.create(file.id, _NAME.encode(), h5py.h5t.IEEE_F32LE, space, properties)
            )
            made.attrs.update(content=content or "", exponent=exponent)
            offset = made.id.get_offset()
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), offset, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigError(
            f"memory={path}: cannot make a file of {size / 1e9:.2f} GB: {error}"
        ) from error
    return offset
