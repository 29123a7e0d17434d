"""Fields over time in one HDF5 file that ParaView opens, written by all ranks; see docs/io.md."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from mpi4py import MPI

from hpckit.arguments import per_dimension
from hpckit.comm.grid import Grid
from hpckit.comm.staggering import Stagger, check_shape
from hpckit.errors import Checkpointed, ConfigError, HpckitError, same, together
from hpckit.files import durable_replace
from hpckit.io import vtkhdf
from hpckit.io.box import check_array, field_box, staggering_of
from hpckit.io.outputs import OUTPUTS, Times
from hpckit.io.steps import Steps, planned
from hpckit.names import Layout

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_PART = re.compile(r"\d{5,}\.h5(\.tmp)?", re.ASCII)
_log = logging.getLogger(__name__)


class FieldFile:
    """A result file, `path`, that all ranks write (collective in every method).

    Until `close` the file is called `path` + ".partial", and `path` stays as it was. As a context
    manager it closes at the end of the block; after an error it leaves the `.partial` file, which
    is a complete HDF5 file: the times of steps that do not have all their fields are NaN.

    ::

        with FieldFile("out.vtkhdf", grid, {"h": float}, times=100, spacing=50.0) as file:
            for step in range(100):
                advance(h)
                file.write(step, step * dt, "h", h)

    Parameters
    ----------
    path : the result; ParaView knows it by the ending `.vtkhdf`.
    fields : name → dtype of a cell-centred field, or an array with ghosts as made by the grid,
        which may be staggered.
    times : how many steps to make room for, or the list of planned times; `close` leaves out what
        was not written.
    spacing, origin : cell size and lower corner, in the unit of the coordinates: a number or one
        per dimension.
    layout : "mpi" writes one plain file by MPI-IO; "files" writes one file per rank, in the folder
        `path` + ".parts", and makes `path` a view of them all (an older `path` goes at once);
        "h5py" uses h5py's own parallel driver.
    resume : go on with the `.partial` file (or finished file) of an earlier run, if there is one;
        where it has less room than asked for now, it gets more.

    Raises `ConfigError` on all ranks when the file cannot be made or ranks differ in what they ask
    for, `HpckitError` when writing fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        grid: Grid,
        fields: Mapping[str, DTypeLike | np.ndarray],
        times: int | Sequence[float],
        *,
        spacing: float | Sequence[float] = 1.0,
        origin: float | Sequence[float] = 0.0,
        layout: Layout = "mpi",
        resume: bool = False,
    ) -> None:
        self._grid, self._comm = grid, grid.comm
        with together(self._comm):
            self.path = Path(path)
            self.partial = self.path.with_name(self.path.name + ".partial")
            steps = planned(self.path, times)
            kinds = _kinds(fields)
            sizes = per_dimension("spacing", spacing, grid.ndim, _finite, "finite number")
            corner = per_dimension("origin", origin, grid.ndim, _finite, "finite number")
            if min(sizes) <= 0:
                raise ConfigError(f"spacing {spacing!r} must be greater than 0")
            if layout not in OUTPUTS:
                raise ConfigError(
                    f"layout {layout!r} is not known: use one of {', '.join(get_args(Layout))}"
                )
        same(
            self._comm,
            "the arguments of FieldFile",
            (self.path, kinds, steps, sizes, corner, layout, bool(resume)),
        )
        staggered = staggering_of(
            grid, {k: v for k, v in fields.items() if isinstance(v, np.ndarray)}
        )
        self._stagger: dict[str, Stagger] = {
            name: staggered.get(name, (0,) * grid.ndim) for name in fields
        }
        with together(self._comm):
            if layout == "h5py":
                _need_parallel_h5py()
            contents = _contents(
                grid, self.path, kinds, self._stagger, steps, sizes, corner, layout
            )
        self._contents, offsets = self._make(contents, resume)
        self._steps = Steps(self.path, fields, offsets.times)
        with together(self._comm):
            self._output = OUTPUTS[layout](
                grid, self.partial, self._contents, self._stagger, offsets
            )
            self._times = Times(self.partial, offsets.values) if grid.rank == 0 else None
        self._drop = weakref.finalize(self, _drop, self._output, self._times)

    def write(self, step: int, time: float, name: str, array: np.ndarray) -> None:
        """Write the owned cells of `array` (with ghosts) as field `name` of step `step`, at `time`.

        Times grow from step to step. A step that is written again at another time, as when an
        earlier run is gone on with otherwise, does away with the steps after it.
        """
        with together(self._comm):
            step, time = index(step), float(time)
            box = self._checked(step, time, name, array)
        same(self._comm, "step, time and name of a field", (step, time, name))
        with together(self._comm):
            gone = self._steps.begin(step, time)
            if self._times:
                self._times.forget(gone)
        self._output.write(step, name, box)
        with together(self._comm):  # a step that has its time has its data
            if self._steps.arrive(step, name) and self._times:
                self._times.write(step, time)

    def sync(self) -> None:
        """Put all that was written on the disk: before the checkpoint that belongs to it."""
        with together(self._comm):
            self._output.sync()
            if self._times:
                self._times.sync()

    def suspend(self) -> None:
        """Sync and let go of the file under its `.partial` name, for `resume`."""
        self.sync()
        with together(self._comm):
            self._drop.detach()
            self._output.close()
            if self._times:
                self._times.close()

    def close(self) -> None:
        """Sync, leave out the steps that were never written, and give the file its name."""
        if not self._drop.alive:
            return
        lacking = self._steps.lacking
        self.suspend()
        with together(self._comm):
            if self._grid.rank == 0:
                try:
                    skipped = vtkhdf.finish(
                        self.partial, self._contents, self._steps.times, lacking
                    )
                    durable_replace(self.partial, self.path)
                except OSError as error:
                    raise HpckitError(
                        f"cannot write {self.path}: {error}; {self.partial} is left"
                    ) from error
                if skipped:
                    _log.warning(
                        "%s: %d steps that were never written are left out", self.path, skipped
                    )
                if lacking:
                    _log.warning(
                        "%s: not written, and NaN or 0 there: %s", self.path, _listed(lacking)
                    )

    def __enter__(self) -> FieldFile:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Checkpointed):  # raised by all ranks, by its nature
            self.suspend()
        else:
            self._drop()

    def _make(
        self, contents: vtkhdf.Contents, resume: bool
    ) -> tuple[vtkhdf.Contents, vtkhdf.Offsets]:
        """Rank 0 creates the file, or finds the one to go on with, and tells where data go."""
        made = None
        with together(self._comm):
            if self._grid.rank == 0:
                made = _prepare(self.path, self.partial, contents, resume)
        steps, offsets = self._comm.bcast(made)
        return replace(contents, steps=steps), offsets

    def _checked(self, step: int, time: float, name: str, array: np.ndarray) -> np.ndarray:
        """The owned values, contiguous."""
        if not self._drop.alive:
            raise ConfigError(
                f"{self.path} is closed: to write more, open it again with resume=True"
            )
        field = next((field for field in self._contents.fields if field.name == name), None)
        if field is None:
            raise ConfigError(f"{self.path} has no field {name!r}, only {', '.join(self._stagger)}")
        self._steps.check(step, time)
        check_array(f"field {name!r}", array)
        if array.dtype != field.dtype:
            raise ConfigError(
                f"field {name!r} is {array.dtype}, but {self.path} was made for {field.dtype}"
            )
        check_shape(self._grid, f"field {name!r}", array, self._stagger[name])
        return np.ascontiguousarray(array[self._grid.owned])


def _drop(output: Any, times: Times | None) -> None:
    """Let go of the files after an error."""
    for each in (output, times):
        with contextlib.suppress(HpckitError, OSError):
            if each and not MPI.Is_finalized():
                each.drop()


def _kinds(fields: Mapping[str, Any]) -> dict[str, np.dtype]:
    """The dtype of each field; raises `ConfigError` for what a file cannot hold."""
    kinds = {}
    for name, kind in fields.items():
        if isinstance(kind, np.ndarray):
            check_array(f"field {name!r}", kind)
        try:
            dtype = kinds[name] = kind.dtype if isinstance(kind, np.ndarray) else np.dtype(kind)
            str(name).encode()
        except (TypeError, ValueError):
            raise ConfigError(
                f"field {name!r} is neither a dtype nor an array, or its name is no text: {kind!r}"
            ) from None
        fits = isinstance(name, str) and name not in ("", ".", "..") and not set("/\0") & set(name)
        if dtype.hasobject or not dtype.itemsize or dtype.subdtype or not fits:
            raise ConfigError(
                f"field {name!r} of {dtype}: it needs numbers or records, and a name without '/'"
            )
    return kinds


def _contents(
    grid: Grid,
    path: Path,
    kinds: Mapping[str, np.dtype],
    stagger: Mapping[str, Stagger],
    steps: int,
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    layout: str,
) -> vtkhdf.Contents:
    stored = [
        vtkhdf.StoredField(name, dtype, grid.global_shape(stagger[name]), any(stagger[name]))
        for name, dtype in kinds.items()
    ]
    parts = []
    for rank in range(grid.size if layout == "files" else 0):
        boxes = {name: field_box(grid, rank, its) for name, its in stagger.items()}
        parts.append(vtkhdf.RankFile(path.with_name(path.name + ".parts") / f"{rank:05}.h5", boxes))
    return vtkhdf.Contents(grid.shape, steps, tuple(stored), spacing, origin, tuple(parts))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _need_parallel_h5py() -> None:
    import h5py

    if not h5py.get_config().mpi:
        raise ConfigError(
            'layout "h5py" needs an h5py built with MPI, and this one is not: use layout="mpi"'
        )


def _prepare(
    path: Path, partial: Path, contents: vtkhdf.Contents, resume: bool
) -> tuple[int, vtkhdf.Offsets]:
    """Rank 0: a new file, or the one to go on with; its room and where its data lie."""
    try:
        if not path.parent.is_dir():
            raise ConfigError(
                f"cannot write {path}: there is no folder {path.parent}; make it, or write "
                "elsewhere"
            )
        if path.is_dir() or partial.is_dir():
            raise ConfigError(f"cannot write {path}: it is a folder; choose another name")
        old = next((file for file in (partial, path) if resume and file.exists()), None)
        if old is None:
            _make_room(path, partial, contents)
            vtkhdf.create(partial, contents)
        else:
            contents = _go_on(old, partial, contents)
    except HpckitError:
        raise
    except Exception as error:  # h5py has many kinds for a full disk
        raise ConfigError(f"cannot write {path}: {error}") from error
    return contents.steps, vtkhdf.locate(partial, contents)


def _go_on(old: Path, partial: Path, contents: vtkhdf.Contents) -> vtkhdf.Contents:
    """Make `partial` of the file `old`, with room for all steps that it has or shall have."""
    room, times = vtkhdf.found(old, contents)
    written = np.flatnonzero(np.isfinite(times))
    contents = replace(contents, steps=max(contents.steps, *(written[-1:] + 1), 1))
    if room == len(times) == contents.steps:
        if old != partial:
            old.replace(partial)
    else:  # closed before it was full, or another room is wanted
        _check_space(partial, contents)
        vtkhdf.create(partial, contents, old)
    return contents


def _make_room(path: Path, partial: Path, contents: vtkhdf.Contents) -> None:
    """Remove what an earlier run left unfinished, and make sure that the result fits."""
    partial.unlink(missing_ok=True)
    if contents.parts:
        path.unlink(missing_ok=True)  # it would show the new data under the old times
        folder = contents.parts[0].file.parent
        folder.mkdir(exist_ok=True)
        for file in folder.glob("*.h5*"):
            if _PART.fullmatch(file.name):  # nothing that is not ours
                file.unlink()
    _check_space(path, contents)


def _check_space(path: Path, contents: vtkhdf.Contents) -> None:
    free = shutil.disk_usage(path.parent).free
    if contents.nbytes > free:
        raise ConfigError(
            f"cannot write {path}: it needs {contents.nbytes / 1e9:.2f} GB, but {free / 1e9:.2f} "
            "GB are free: write fewer steps or fields, or write elsewhere"
        )


def _listed(lacking: Sequence[tuple[int, str]], most: int = 5) -> str:
    shown = ", ".join(f"{name!r} of step {step}" for step, name in lacking[:most])
    return shown + f" and {len(lacking) - most} more" * (len(lacking) > most)
