"""The HDF5 side of a `FieldFile`; called on rank 0 alone, so that the other ranks need not import h5py.

Layout (VTKHDF 2.0, ImageData): `/VTKHDF/CellData/NAME` has shape (steps, nz, ny, nx), `/VTKHDF/Steps/Values` the times.
Our values are means over cells or sit at their centres, so they are CellData: `WholeExtent` then spans the true domain,
and a dimension of one cell keeps its thickness (as PointData, VTK 9.7 refuses it). What VTK's images cannot hold goes
to `/fields/NAME`, outside the VTKHDF group, which VTK ignores: staggered fields, records, bool, complex numbers. A 4-D
grid has no VTKHDF group at all: `/fields/NAME` and `/Steps/Values`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError

if TYPE_CHECKING:
    import h5py

ALIGNMENT = 4096  # bytes: no page of the file holds data of two datasets


@dataclass(frozen=True)
class Stored:
    """One field as it lies in the file; `shape` of one step."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    staggered: bool

    @property
    def path(self) -> str:
        shown = len(self.shape) <= 3 and not self.staggered and self.dtype.kind in "iuf" and self.dtype.itemsize <= 8
        return f"VTKHDF/CellData/{self.name}" if shown else f"fields/{self.name}"

    @property
    def step_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """A file of one rank (`layout="files"`): its name, and the box of each field that it holds."""

    file: Path
    boxes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of the file's metadata."""

    shape: tuple[int, ...]
    steps: int
    fields: tuple[Stored, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    parts: tuple[Part, ...] = ()

    @property
    def values(self) -> str:
        return "VTKHDF/Steps/Values" if len(self.shape) <= 3 else "Steps/Values"

    @property
    def nbytes(self) -> int:
        return self.steps * sum(field.step_bytes for field in self.fields)


@dataclass(frozen=True)
class Offsets:
    """Bytes from the start of the file to the times and to step 0 of each field, one dict per file that holds data."""

    values: int
    fields: list[dict[str, int]]


def create(file: Path, plan: Plan) -> None:
    """Make the file, complete but for the data: space for all steps, times NaN; atomic and synced."""
    for part in plan.parts:
        with _new(part.file) as f:
            for field in plan.fields:
                _contiguous(f, field.name, (plan.steps, *_extent(part.boxes[field.name])), field.dtype, plan)
    draft = file.with_name(file.name + ".tmp")
    with _new(draft) as f:
        f.create_dataset(plan.values, data=np.full(plan.steps, np.nan))
        if len(plan.shape) <= 3:
            _describe(f.require_group("VTKHDF"), plan)
        for field in plan.fields:
            (_virtual if plan.parts else _contiguous)(f, field.path, (plan.steps, *field.shape), field.dtype, plan)
    durable_replace(draft, file)


def locate(file: Path, plan: Plan) -> Offsets:
    """Offsets of the data in a file that `create` made; raises `ConfigError` when it was made for another plan."""
    with _opened(file) as f:
        found = {path: _signature(f.get(path)) for path in [plan.values, *(field.path for field in plan.fields)]}
        wanted = {field.path: ((plan.steps, *field.shape), field.dtype) for field in plan.fields}
        for path, signature in {plan.values: ((plan.steps,), np.dtype(float)), **wanted}.items():
            if found[path] != signature:
                raise ConfigError(f"cannot go on with {file}: {path} is {found[path]}, but this run writes {signature}")
        values = f[plan.values].id.get_offset()
        if not plan.parts:
            return Offsets(values, [{field.name: f[field.path].id.get_offset() for field in plan.fields}])
    return Offsets(values, [_locate_part(part, plan) for part in plan.parts])


def finish(file: Path, plan: Plan) -> int:
    """Cut the steps off that were never written; returns how many steps before the last one have no data."""
    with _opened(file, "r+") as opened:
        f: Any = opened
        written = np.isfinite(f[plan.values][:])
        count = int(np.flatnonzero(written)[-1]) + 1 if written.any() else 0
        if count < plan.steps:
            # VTK reads as many values as there are steps, so the dataset has to become shorter, too.
            for path in [plan.values, *_offset_paths(plan)]:
                data = f[path][:count]
                del f[path]
                f[path] = data
            if len(plan.shape) <= 3:
                f["VTKHDF/Steps"].attrs["NSteps"] = np.int64(count)
    return count - int(written[:count].sum())


def durable_replace(source: Path, target: Path) -> None:
    """Sync `source`, rename it to `target`, and make the renaming itself survive a power failure."""
    for path, flags in [(source, os.O_RDWR), (target.parent, os.O_RDONLY)]:
        if path == target.parent:
            source.replace(target)
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new(file: Path) -> h5py.File:
    import h5py

    return h5py.File(file, "w", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT)


def _opened(file: Path, mode: str = "r") -> h5py.File:
    import h5py

    try:
        return h5py.File(file, mode)
    except OSError as error:
        raise ConfigError(f"cannot go on with {file}: {error}; remove it to start anew") from None


def _describe(group: h5py.Group, plan: Plan) -> None:
    """The attributes of an image, in VTK's order: x is our last dimension."""
    fill = [None] * (3 - len(plan.shape))
    backwards: Any = {key: [*reversed(getattr(plan, key)), *fill] for key in ("shape", "spacing", "origin")}
    group.attrs["Version"] = np.array([2, 0], np.int64)
    group.attrs["Type"] = np.bytes_("ImageData")
    group.attrs["WholeExtent"] = np.array([[0, n or 0] for n in backwards["shape"]], np.int64).ravel()
    group.attrs["Spacing"] = np.array([1.0 if h is None else h for h in backwards["spacing"]])
    group.attrs["Origin"] = np.array([x or 0.0 for x in backwards["origin"]])
    group.attrs["Direction"] = np.eye(3).ravel()
    group["Steps"].attrs["NSteps"] = np.int64(plan.steps)
    group.require_group("CellData")
    for path in _offset_paths(plan):
        group.file[path] = np.arange(plan.steps, dtype=np.int64)


def _offset_paths(plan: Plan) -> list[str]:
    shown = [field.name for field in plan.fields if field.path.startswith("VTKHDF")]
    return [f"VTKHDF/Steps/CellDataOffsets/{name}" for name in shown]


def _contiguous(f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, _plan: Plan) -> None:
    """A dataset whose bytes have their place in the file from the start, without being written."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    _dataset(f, path, shape, dtype, properties)


def _virtual(f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, plan: Plan) -> None:
    """A dataset whose values lie in the files of the ranks; their names are relative to this file."""
    import h5py

    name, space = path.rpartition("/")[2], h5py.h5s.create_simple(shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for part in plan.parts:
        start, stop = part.boxes[name]
        box = (plan.steps, *_extent((start, stop)))
        space.select_hyperslab((0, *start), (1,) * len(box), block=box)
        source = f"{part.file.parent.name}/{part.file.name}".encode()
        properties.set_virtual(space, source, name.encode(), h5py.h5s.create_simple(box))
    _dataset(f, path, shape, dtype, properties)


def _dataset(f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, properties: Any) -> None:
    import h5py

    properties.set_obj_track_times(False)  # equal runs make equal bytes
    group, _, name = path.rpartition("/")
    parent = f.require_group(group or "/")
    stored = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(parent.id, name.encode(), stored, h5py.h5s.create_simple(shape), properties)


def _locate_part(part: Part, plan: Plan) -> dict[str, int]:
    with _opened(part.file) as f:
        for field in plan.fields:
            wanted = ((plan.steps, *_extent(part.boxes[field.name])), field.dtype)
            if _signature(f.get(field.name)) != wanted:
                raise ConfigError(f"cannot go on with {part.file}: it was not written on this process grid")
        return {field.name: f[field.name].id.get_offset() for field in plan.fields}


def _signature(dataset: Any) -> tuple[tuple[int, ...], np.dtype] | None:
    return None if dataset is None else (dataset.shape, dataset.dtype)


def _extent(box: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(b - a for a, b in zip(*box, strict=True))
