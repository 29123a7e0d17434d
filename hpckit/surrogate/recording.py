"""What is written of a tape: what was solved, and files in which each step has its place.

In an HDF5 file everything has its place from the start (what is not written yet takes no room on
the disk): a step is put where it belongs, nothing ever moves, and the file is whole whenever the
process ends. A simulation counts once its last step is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hpckit.errors import ConfigError, writing
from hpckit.files import replacing, sync

if TYPE_CHECKING:
    from hpckit.surrogate.solver import Solver

TRAINED, VALIDATION = "simulations", "validation"  # how files' names begin
_DESCRIPTION = "tape.json"
_FORMAT = 1
_FILE = 64e6  # bytes of values in a file, about
_OPEN = 4  # files that are held open


class Description(msgspec.Struct, frozen=True):
    """What was solved: simulations of two tapes may be mixed only where these are equal.

    steps : of a simulation
    fields : shapes by name, in the order in which their values stand
    parameters : limits by name, in their order
    about : what the solver says of itself: equation, domain, coefficients, points or cell means
    """

    steps: int
    fields: dict[str, tuple[int, ...]]
    parameters: dict[str, tuple[float, float]]
    about: dict[str, Any]
    format: int = _FORMAT

    @classmethod
    def of(cls, solver: Solver) -> Description:
        """That of a solver."""
        space = solver.space
        limits = zip(space.names, space.low.tolist(), space.high.tolist(), strict=True)
        said = {
            "steps": solver.steps,
            "fields": {name: list(shape) for name, shape in solver.fields.items()},
            "parameters": {name: (low, high) for name, low, high in limits},
            "about": getattr(solver, "about", {}),
        }
        return msgspec.json.decode(msgspec.json.encode(said), type=cls)  # as it is read again

    @property
    def size(self) -> int:
        """Values of a step."""
        return sum(int(np.prod(shape)) for shape in self.fields.values())

    def check(self, other: Description, path: Path) -> None:
        """`ConfigError`, which names the first difference, where another is not the same."""
        for name in self.__struct_fields__:
            one, two = getattr(self, name), getattr(other, name)
            if one != two or list(_keys(one)) != list(_keys(two)):
                raise ConfigError(
                    f"the tape {path} is of another solver, with {name} {one} instead of {two}: "
                    "give the solver that recorded it, or another tape"
                )


class Recording:
    """Writes a trainer's messages to its files of a tape."""

    def __init__(self, folder: Path, description: Description, trainer: int) -> None:
        self._folder = folder
        self._description = description
        self._trainer = trainer
        self._count = max(1, int(_FILE // (4 * description.steps * description.size)))
        self._parts: dict[tuple[str, int], _Part] = {}

    def write(self, message: np.void) -> None:
        """Put a step where it belongs; steps of a simulation come in order.

        Raises `HpckitError` where the disk does not take it.
        """
        number = int(message["simulation"])
        stream, place = (TRAINED, number) if number >= 0 else (VALIDATION, -1 - number)
        segment, row = divmod(place, self._count)
        step = int(message["step"])
        part = self._part(stream, segment)
        if step == 0:
            part.put("parameters", message["parameters"], row)
        part.put("times", message["time"], row, step)
        part.put("values", message["values"], row, step)
        if step == self._description.steps - 1:
            part.put("whole", b"\1", row)

    def flush(self) -> None:
        """Have the disk hold it, as before a checkpoint that counts on it."""
        for part in self._parts.values():
            part.flush()

    def close(self) -> None:
        """Nothing more will come."""
        while self._parts:
            self._parts.popitem()[1].close()

    def _part(self, stream: str, segment: int) -> _Part:
        key = stream, segment
        if key not in self._parts:
            if len(self._parts) == _OPEN:
                self._parts.pop(next(iter(self._parts))).close()
            path = self._folder / f"{stream}-{segment:05}-{self._trainer:03}.h5"
            first = segment * self._count
            self._parts[key] = _Part(path, self._description, first, self._count)
        return self._parts[key]


class _Part:
    """A file of a tape, open to be written; it is made if need be."""

    def __init__(self, path: Path, description: Description, first: int, count: int) -> None:
        self._path = path
        with writing(path):
            if not path.exists():
                with replacing(path) as draft:
                    _make(draft, description, first, count)
            self._places = _layout(path)
            self._file = os.open(path, os.O_RDWR)

    def put(self, name: str, values: Any, row: int, step: int = 0) -> None:
        """Write what belongs to a row of a dataset, or to a step of it: bytes as they are there."""
        begin, of_row, of_step = self._places[name]
        place, left = begin + row * of_row + step * of_step, memoryview(values).cast("B")
        with writing(self._path):
            while left:
                done = os.pwrite(self._file, left, place)
                place, left = place + done, left[done:]

    def flush(self) -> None:
        with writing(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        self.flush()
        os.close(self._file)


def set_aside(folder: Path) -> None:
    """Move a tape to the folder beside it with ".old" to its name; the one there goes."""
    if not (folder / _DESCRIPTION).exists():
        return
    old = folder.with_name(f"{folder.name}.old")
    if (old / _DESCRIPTION).exists():
        for path in [*old.glob("*.h5"), old / _DESCRIPTION]:
            path.unlink()
        old.rmdir()
    folder.rename(old)


def begin(folder: Path, wanted: Description, resume: bool) -> None:
    """Make the folder with its description, or see that they are what is wanted.

    One where nothing was recorded is no tape yet.
    """
    path = folder / _DESCRIPTION
    if path.exists() and resume:
        read_description(folder).check(wanted, folder)
        return
    if path.exists() and any(folder.glob("*.h5")):
        raise ConfigError(f"there is a tape in {folder} already: give another folder, or remove it")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(wanted)) + b"\n")
        sync(folder)


def read_description(folder: Path) -> Description:
    """What a tape says that it holds; `ConfigError` where there is none."""
    path = folder / _DESCRIPTION
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Description)
    except FileNotFoundError:
        raise ConfigError(f"there is no tape in {folder}: record one, or give its folder") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read as that of a tape: {error}") from None
    if found.format != _FORMAT:
        raise ConfigError(
            f"the tape {folder} has format {found.format}, but this hpckit reads {_FORMAT}"
        )
    return found


def _make(path: Path, description: Description, first: int, count: int) -> None:
    """A file for so many simulations with nothing in it."""
    import h5py
    from h5py import h5d, h5p, h5s, h5t  # type: ignore[attr-defined]

    plain = h5p.create(h5p.DATASET_CREATE)
    plain.set_layout(h5d.CONTIGUOUS)
    plain.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plain.set_fill_time(h5d.FILL_TIME_NEVER)
    steps = description.steps
    datasets = {
        "parameters": ((count, len(description.parameters)), np.float64),
        "times": ((count, steps), np.float64),
        "values": ((count, steps, description.size), np.float32),
        "whole": ((count,), np.uint8),
    }
    with h5py.File(path, "w", libver="earliest") as file:
        file.attrs["first"] = first
        file.attrs["tape"] = msgspec.json.encode(description).decode()
        for name, (shape, dtype) in datasets.items():
            kind, space = h5t.py_create(np.dtype(dtype)), h5s.create_simple(shape)
            h5d.create(file.id, name.encode(), kind, space, plain)


def _layout(path: Path) -> dict[str, tuple[int, int, int]]:
    """Where each dataset of a file begins, and bytes from one row to the next, and of a step."""
    import h5py

    places = {}
    with h5py.File(path, "r") as file:
        for name, item in file.items():
            of_step = item.dtype.itemsize * math.prod(item.shape[2:])
            places[name] = item.id.get_offset(), of_step * math.prod(item.shape[1:2]), of_step
    return places


def _keys(value: object) -> Iterator[str]:
    """Names in their order: fields and parameters stand in it."""
    yield from value if isinstance(value, dict) else ()
