"""Fields over time in one HDF5 file that ParaView opens, written by all ranks at once; see docs/io.md."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hpckit.comm.grid import Grid
from hpckit.errors import Checkpointed, ConfigError, same, together
from hpckit.io import vtkhdf
from hpckit.io.box import Extra, check_shape, field_box, staggering
from hpckit.io.outputs import OUTPUTS, Times

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Layout = Literal["mpi", "files", "h5py"]
_log = logging.getLogger(__name__)


class FieldFile:
    """A result file, `path`, that all ranks write (collective in every method).

    Until `close` the file is called `path` + ".partial", and `path` stays as it was. As a context manager it closes at
    the end of the block; after an error it leaves the `.partial` file, which is a complete HDF5 file: the times of
    steps that were not written are NaN.

    Parameters
    ----------
    path : the result; ParaView knows it by the ending `.vtkhdf`.
    fields : name → dtype of a cell-centred field, or an array with ghosts as made by the grid, which may be staggered.
    times : how many steps to make room for, or the list of planned times; `close` cuts off what was not written.
    spacing, origin : cell size and lower corner, in the unit of the coordinates: a number or one per dimension.
    layout : "mpi" writes one plain file by MPI-IO; "files" writes one file per rank, in the folder `path` + ".parts",
        and makes `path` a view of them all (an older `path` goes at once); "h5py" uses h5py's own parallel driver.
    resume : go on with the `.partial` file (or finished file) of an earlier run, if there is one.

    Raises `ConfigError` on all ranks when the file cannot be made, `HpckitError` when writing fails.
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
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._grid, self._comm = grid, grid.comm
        steps = times if isinstance(times, int) else len(times)
        staggered = staggering(grid, {k: v for k, v in fields.items() if isinstance(v, np.ndarray)})
        self._extra: dict[str, Extra] = {name: staggered.get(name, (0,) * grid.ndim) for name in fields}
        with together(self._comm):
            self._plan = _plan(grid, self.path, fields, self._extra, steps, spacing, origin, layout)
        same(self._comm, "the arguments of FieldFile", (self.path, layout, resume, self._plan))
        offsets = self._make(resume)
        with together(self._comm):
            self._output = OUTPUTS[layout](grid, self.partial, self._plan, self._extra, offsets)
            self._times = Times(self.partial, offsets.values) if grid.rank == 0 else None

    def write(self, step: int, time: float, name: str, array: np.ndarray) -> None:
        """Write the owned cells of `array` (with ghosts) as field `name` of step `step`, at `time`."""
        with together(self._comm):
            box = self._checked(step, name, array)
        self._output.write(step, name, box)
        with together(self._comm):  # a step that has its time has its data
            if self._times:
                self._times.write(step, time)

    def sync(self) -> None:
        """Put all that was written on the disk; do it before the checkpoint from which the run would go on."""
        with together(self._comm):
            self._output.sync()
            if self._times:
                self._times.sync()

    def suspend(self) -> None:
        """Sync and let go of the file under its `.partial` name, for `resume`."""
        self.sync()
        self._output.close()
        if self._times:
            self._times.close()

    def close(self) -> None:
        """Sync, cut off steps that were never written, and give the file its name."""
        self.suspend()
        with together(self._comm):
            if self._grid.rank == 0:
                missing = vtkhdf.finish(self.partial, self._plan)
                vtkhdf.durable_replace(self.partial, self.path)
                if missing:
                    _log.warning("%s: %d steps before the last one were never written", self.path, missing)

    def __enter__(self) -> FieldFile:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Checkpointed):  # raised by all ranks, by its nature
            self.suspend()
        else:
            self._output.drop()

    def _make(self, resume: bool) -> vtkhdf.Offsets:
        """Rank 0 creates the file, or finds the one to go on with, and tells where the data go."""
        offsets = None
        with together(self._comm):
            if self._grid.rank == 0:
                offsets = _prepare(self.path, self.partial, self._plan, resume)
        return self._comm.bcast(offsets)

    def _checked(self, step: int, name: str, array: np.ndarray) -> np.ndarray:
        """The owned values, contiguous."""
        field = next((field for field in self._plan.fields if field.name == name), None)
        if field is None:
            raise ConfigError(f"{self.path} has no field {name!r}, only {', '.join(self._extra)}")
        if not 0 <= step < self._plan.steps:
            raise ConfigError(f"step {step} of {self.path}: it has room for steps 0 to {self._plan.steps - 1}")
        if array.dtype != field.dtype:
            raise ConfigError(f"field {name!r} is {array.dtype}, but {self.path} was made for {field.dtype}")
        check_shape(self._grid, name, array, self._extra[name])
        return np.ascontiguousarray(array[self._grid.owned])


def _plan(
    grid: Grid, path: Path, fields: Mapping, extra: Mapping[str, Extra], steps: int, spacing, origin, layout: str
) -> vtkhdf.Plan:
    if steps < 1:
        raise ConfigError(f"times of {path}: room for at least one step is needed, not {steps}")
    if layout not in OUTPUTS:
        raise ConfigError(f"layout {layout!r} is not known: use one of {', '.join(get_args(Layout))}")
    if layout == "h5py":
        _need_parallel_h5py()
    stored = []
    for name, kind in fields.items():
        dtype = kind.dtype if isinstance(kind, np.ndarray) else np.dtype(kind)
        if dtype.hasobject or not name or "/" in name or name == ".":
            raise ConfigError(f"field {name!r} of {dtype}: it needs numbers or records, and a name without '/'")
        stored.append(vtkhdf.Stored(name, dtype, grid.global_shape(extra[name]), any(extra[name])))
    parts = []
    for rank in range(grid.size if layout == "files" else 0):
        boxes = {name: field_box(grid, rank, its) for name, its in extra.items()}
        parts.append(vtkhdf.Part(path.with_name(path.name + ".parts") / f"{rank:05}.h5", boxes))
    spacing, origin = _per_dimension(grid, "spacing", spacing), _per_dimension(grid, "origin", origin)
    return vtkhdf.Plan(grid.shape, steps, tuple(stored), spacing, origin, tuple(parts))


def _per_dimension(grid: Grid, name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = np.broadcast_to(np.asarray(value, float), grid.ndim) if np.ndim(value) == 0 else np.asarray(value, float)
    if values.shape != (grid.ndim,) or not np.isfinite(values).all():
        raise ConfigError(f"{name} {value!r} must be a finite number, or one per dimension ({grid.ndim})")
    return tuple(map(float, values))


def _need_parallel_h5py() -> None:
    import h5py

    if not h5py.get_config().mpi:
        raise ConfigError('layout "h5py" needs an h5py built with MPI, and this one is not: use layout="mpi"')


def _prepare(path: Path, partial: Path, plan: vtkhdf.Plan, resume: bool) -> vtkhdf.Offsets:
    """Rank 0: an existing file when resuming, else a new one; then the offsets of its data."""
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {path.parent}; make it, or write elsewhere")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder; choose another name")
    if resume and partial.exists():
        return vtkhdf.locate(partial, plan)
    if resume and path.exists():
        offsets = vtkhdf.locate(path, plan)
        path.replace(partial)
        return offsets
    try:
        _make_room(path, partial, plan)
        vtkhdf.create(partial, plan)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
    return vtkhdf.locate(partial, plan)


def _make_room(path: Path, partial: Path, plan: vtkhdf.Plan) -> None:
    """Remove what an earlier run left unfinished, and make sure that the new result fits on the disk."""
    partial.unlink(missing_ok=True)
    if plan.parts:
        path.unlink(missing_ok=True)  # it would show the new data under the old times
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(plan.parts[0].file.parent)
        plan.parts[0].file.parent.mkdir()
    free = shutil.disk_usage(path.parent).free
    if plan.nbytes > free:
        raise ConfigError(
            f"cannot write {path}: it needs {plan.nbytes / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free:"
            " write fewer steps or fields, or write elsewhere"
        )
