"""The HDF5 side of a `FieldFile`; called on rank 0 alone, so that the other ranks need not import
h5py.

Layout (VTKHDF 2.0, ImageData): `/VTKHDF/CellData/NAME` has shape (steps, nz, ny, nx),
`/VTKHDF/Steps/Values` the times. Our values are means over cells or sit at their centres, so they
are CellData: `WholeExtent` then spans the true domain, and a dimension of one cell keeps its
thickness (as PointData, VTK 9.7 refuses it). What VTK's images cannot hold goes to `/fields/NAME`,
outside the VTKHDF group, which VTK ignores: staggered fields, records, bool, complex numbers. A 4-D
grid has no VTKHDF group at all: `/fields/NAME` and `/Steps/Values`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError
from hpckit.io.overlay import changed, copy, write

if TYPE_CHECKING:
    import h5py

ALIGNMENT = 4096  # bytes: no page of the file holds data of two datasets

# Where things lie in the file, of which only this module and `results` know.
IMAGE = "VTKHDF"  # the group that VTK reads
CELLS = f"{IMAGE}/CellData"  # fields that an image can hold
OTHERS = "fields"  # fields that it cannot
FOLDERS = (CELLS, OTHERS)
STEPS = f"{IMAGE}/Steps"
TIMES = (f"{STEPS}/Values", "Steps/Values")  # with an image, and without one
MOST_DIMENSIONS = 3  # of an image


@dataclass(frozen=True)
class Stored:
    """One field as it lies in the file; `shape` of one step."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    staggered: bool

    @property
    def path(self) -> str:
        number = self.dtype.kind in "iu" or (
            self.dtype.kind == "f" and self.dtype.itemsize in (4, 8)
        )
        shown = len(self.shape) <= MOST_DIMENSIONS and not self.staggered and number
        return f"{CELLS if shown else OTHERS}/{self.name}"

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
        return TIMES[0] if self.is_image else TIMES[1]

    @property
    def is_image(self) -> bool:
        """Whether VTK can show anything of it."""
        return len(self.shape) <= MOST_DIMENSIONS

    @property
    def nbytes(self) -> int:
        return self.steps * sum(field.step_bytes for field in self.fields)


@dataclass(frozen=True)
class Offsets:
    """Bytes from the start of the file to the times and to step 0 of each field, one dict per file
    that holds data.

    times : (steps,) float64, as they are in the file, NaN where a step is not there.
    """

    values: int
    fields: list[dict[str, int]]
    times: np.ndarray


def create(file: Path, plan: Plan, old: Path | None = None) -> None:
    """Make the file, complete but for the data: space for all steps, times NaN; atomic and synced.

    old : a file of the same fields, perhaps for another number of steps, whose data it gets.
    """
    drafts: list[tuple[Path, Path]] = []
    names, paths = ([getattr(field, key) for field in plan.fields] for key in ("name", "path"))
    try:
        times: Any = np.full(plan.steps, np.nan)
        if old:
            before = found(old, plan)[1][: plan.steps]
            times[: len(before)] = before
        for part in plan.parts:
            drafts.append((_draft(part.file), part.file))
            with _new(drafts[-1][0]) as f:
                for field in plan.fields:
                    _contiguous(
                        f,
                        field.name,
                        (plan.steps, *_extent(part.boxes[field.name])),
                        field.dtype,
                        plan,
                    )
            if old:
                _copy(part.file, drafts[-1][0], names, times)
        drafts.append((_draft(file), file))
        with _new(drafts[-1][0]) as f:
            f.create_dataset(plan.values, data=times)
            if plan.is_image:
                _describe(f, plan)
            for field in plan.fields:
                (_virtual if plan.parts else _contiguous)(
                    f, field.path, (plan.steps, *field.shape), field.dtype, plan
                )
        if old and not plan.parts:
            _copy(old, drafts[-1][0], paths, times)
        for draft, target in drafts:
            durable_replace(draft, target) if old or target == file else draft.replace(target)
    finally:
        for draft, _ in drafts:
            draft.unlink(missing_ok=True)


def found(file: Path, plan: Plan) -> tuple[int, np.ndarray]:
    """For how many steps a file has room, and the times that are in it; raises `ConfigError` unless
    it fits the plan.

    A file that was closed before it was full has fewer times than room.
    """
    with _opened(file) as f:
        times: Any = f.get(plan.values)
        its: dict[str, Any] = {path: _signature(f.get(path)) for path in _fields_of(f)}
        room = {signature[0][0] for signature in its.values()} or {
            0 if times is None else len(times)
        }
        wanted = {field.path: ((max(room), *field.shape), field.dtype) for field in plan.fields}
        for path in its.keys() | wanted.keys():
            if its.get(path) != wanted.get(path):
                raise ConfigError(
                    f"cannot go on with {file}: {path} is {its.get(path)}, but this run writes "
                    f"{wanted.get(path)}"
                )
        data: Any = [f[path] for path in wanted]
        if any(each.is_virtual is not bool(plan.parts) for each in data):
            its_layout = "one file" if plan.parts else '"files"'
            raise ConfigError(f"cannot go on with {file}: its layout is {its_layout}")
        if times is None or times.dtype != np.float64 or times.ndim != 1 or len(times) > max(room):
            raise ConfigError(f"cannot go on with {file}: {plan.values} is {_signature(times)}")
        if plan.is_image:
            _check_place(file, f, plan)
        return max(room), times[:]


def locate(file: Path, plan: Plan) -> Offsets:
    """Offsets of the data in a file that `create` made for this plan."""
    times = found(file, plan)[1]
    with _opened(file) as f:
        values: Any = f[plan.values]
        offset = values.id.get_offset()
        if not plan.parts:
            fields: Any = {field.name: f[field.path] for field in plan.fields}
            return Offsets(
                offset, [{name: data.id.get_offset() for name, data in fields.items()}], times
            )
    return Offsets(offset, [_locate_part(part, plan) for part in plan.parts], times)


def finish(file: Path, plan: Plan, times: np.ndarray, lacking: Sequence[tuple[int, str]]) -> int:
    """Leave out the steps that were never written, so that later ones move up; returns how many
    such steps.

    times : (steps,) of what was written; lacking : steps and fields that were not, though others of
        the step were
    """
    kept = np.flatnonzero(np.isfinite(times))
    moves = [(to, int(step)) for to, step in enumerate(kept) if to < step]
    if lacking or moves:
        _fill_gaps(file, plan, times, lacking, moves)
    if len(kept) < plan.steps:
        with changed(file, "r+") as f:  # VTK reads as many values as there are steps
            for path in [plan.values, *_offset_paths(plan)]:
                del f[path]
                f[path] = (
                    times[kept] if path == plan.values else np.arange(len(kept), dtype=np.int64)
                )
            if plan.is_image:
                f[STEPS].attrs["NSteps"] = np.int64(len(kept))
    return len(moves) and moves[-1][1] - moves[-1][0]


def durable_replace(source: Path, target: Path) -> None:
    """Sync `source`, rename it to `target`, and make the renaming itself survive a power
    failure.
    """
    for path, flags in [(source, os.O_RDWR), (target.parent, os.O_RDONLY)]:
        if path == target.parent:
            source.replace(target)
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new(file: Path) -> contextlib.AbstractContextManager[h5py.File]:
    return changed(file, "w", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT)


def _opened(file: Path) -> h5py.File:
    import h5py

    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise ConfigError(f"cannot go on with {file}: {error}; remove it to start anew") from None


def _fill_gaps(
    file: Path,
    plan: Plan,
    times: np.ndarray,
    lacking: Sequence[tuple[int, str]],
    moves: Sequence[tuple[int, int]],
) -> None:
    """Write NaN, or 0 where a type has none, for fields that lack, then move steps: the data before
    their time.
    """
    offsets = locate(file, plan)
    boxes = [part.boxes for part in plan.parts] or [{}]
    with contextlib.ExitStack() as stack:
        main, *others = (
            _writable(stack, each) for each in [file, *(part.file for part in plan.parts)]
        )
        targets = others or [main]
        for descriptor, starts, box in zip(targets, offsets.fields, boxes, strict=True):
            for field in plan.fields:
                count = math.prod(_extent(box[field.name]) if box else field.shape)
                start, stride = starts[field.name], count * field.dtype.itemsize
                for step in (step for step, name in lacking if name == field.name):
                    nothing = np.nan if field.dtype.kind in "fc" else np.zeros((), field.dtype)
                    write(
                        descriptor,
                        np.full(count, nothing, field.dtype).tobytes(),
                        start + step * stride,
                    )
        for step in {step for step, _ in lacking}:
            write(main, np.float64(times[step]).tobytes(), offsets.values + 8 * step)
        for to, step in moves:
            for descriptor, starts, box in zip(targets, offsets.fields, boxes, strict=True):
                for field in plan.fields:
                    count = math.prod(_extent(box[field.name]) if box else field.shape)
                    start, stride = starts[field.name], count * field.dtype.itemsize
                    copy(descriptor, start + step * stride, descriptor, start + to * stride, stride)
            for each, time in ((to, times[step]), (step, np.nan)):
                write(main, np.float64(time).tobytes(), offsets.values + 8 * each)


def _writable(stack: contextlib.ExitStack, file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR)
    stack.callback(os.close, descriptor)
    return descriptor


def _copy(old: Path, new: Path, paths: Sequence[str], times: np.ndarray) -> None:
    """Copy the steps that have a time, of the datasets of these names, from one file to another."""
    with _opened(old) as before, _opened(new) as after, contextlib.ExitStack() as stack:
        source, target = _writable(stack, old), _writable(stack, new)
        for path in paths:
            data: Any = [f.get(path) for f in (before, after)]
            if None in data or len({(each.shape[1:], each.dtype) for each in data}) > 1:
                raise ConfigError(
                    f"cannot go on with {old}: it was not written on this process grid"
                )
            start, to = (each.id.get_offset() for each in data)
            nbytes = math.prod(data[1].shape[1:]) * data[1].dtype.itemsize
            for step in map(int, np.flatnonzero(np.isfinite(times))):
                copy(source, start + step * nbytes, target, to + step * nbytes, nbytes)


def _fields_of(f: h5py.File) -> list[str]:
    folders: Any = {path: f.get(path) for path in FOLDERS}
    return [
        f"{path}/{name}"
        for path, folder in folders.items()
        if folder is not None
        for name in folder
    ]


def _check_place(file: Path, f: h5py.File, plan: Plan) -> None:
    for key, value in _place(plan).items():
        its: Any = f[IMAGE].attrs.get(key)
        if not np.array_equal(its, value):
            raise ConfigError(
                f"cannot go on with {file}: its {key} is {its}, but this run's is {value}"
            )


def _place(plan: Plan) -> dict[str, np.ndarray]:
    """The attributes that say where an image lies, in VTK's order: x is our last dimension."""
    fill = [None] * (3 - len(plan.shape))
    backwards: Any = {
        key: [*reversed(getattr(plan, key)), *fill] for key in ("shape", "spacing", "origin")
    }
    return {
        "WholeExtent": np.array([[0, n or 0] for n in backwards["shape"]], np.int64).ravel(),
        "Spacing": np.array([1.0 if h is None else h for h in backwards["spacing"]]),
        "Origin": np.array([x or 0.0 for x in backwards["origin"]]),
    }


def _draft(file: Path) -> Path:
    return file.with_name(file.name + ".tmp")


def _describe(f: h5py.File, plan: Plan) -> None:
    group = f.require_group(IMAGE)
    group.attrs["Version"] = np.array([2, 0], np.int64)
    group.attrs["Type"] = np.bytes_("ImageData")
    for key, value in _place(plan).items():
        group.attrs[key] = value
    group.attrs["Direction"] = np.eye(3).ravel()
    group["Steps"].attrs["NSteps"] = np.int64(plan.steps)
    group.require_group("CellData")
    for path in _offset_paths(plan):
        group.file[path] = np.arange(plan.steps, dtype=np.int64)


def _offset_paths(plan: Plan) -> list[str]:
    shown = [field.name for field in plan.fields if field.path.startswith(CELLS)]
    return [f"{STEPS}/CellDataOffsets/{name}" for name in shown]


def _contiguous(
    f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, _plan: Plan
) -> None:
    """A dataset whose bytes have their place in the file from the start, without being written."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    _dataset(f, path, shape, dtype, properties)


def _virtual(f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, plan: Plan) -> None:
    """A dataset whose values lie in the files of the ranks; their names are relative to this file.

    In names of sources, HDF5 takes %b for the number of a block, and %% for a percent sign.
    """
    import h5py

    name, space = path.rpartition("/")[2], h5py.h5s.create_simple(shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for part in plan.parts:
        start, stop = part.boxes[name]
        box = (plan.steps, *_extent((start, stop)))
        space.select_hyperslab((0, *start), (1,) * len(box), block=box)
        source = f"{part.file.parent.name}/{part.file.name}"
        names = (each.replace("%", "%%").encode() for each in (source, name))
        properties.set_virtual(space, *names, h5py.h5s.create_simple(box))
    _dataset(f, path, shape, dtype, properties)


def _dataset(
    f: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype, properties: Any
) -> None:
    import h5py

    properties.set_obj_track_times(False)  # equal runs make equal bytes
    group, _, name = path.rpartition("/")
    parent = f.require_group(group or "/")
    stored = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(parent.id, name.encode(), stored, h5py.h5s.create_simple(shape), properties)


def _locate_part(part: Part, plan: Plan) -> dict[str, int]:
    with _opened(part.file) as f:
        for field in plan.fields:
            wanted = _extent(part.boxes[field.name])
            data: Any = f.get(field.name)
            if (
                data is None
                or data.dtype != field.dtype
                or data.shape[1:] != wanted
                or len(data) < plan.steps
            ):
                raise ConfigError(
                    f"cannot go on with {part.file}: it was not written on this process grid"
                )
        fields: Any = {field.name: f[field.name] for field in plan.fields}
        return {name: data.id.get_offset() for name, data in fields.items()}


def _signature(dataset: Any) -> tuple[tuple[int, ...], np.dtype] | None:
    return None if dataset is None else (dataset.shape, dataset.dtype)


def _extent(box: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(b - a for a, b in zip(*box, strict=True))
