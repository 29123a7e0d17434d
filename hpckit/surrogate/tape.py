"""Tapes: simulations that are recorded, to train from as often as one likes.

A tape is a folder. `tape.json` says what was solved; HDF5 files hold the simulations, and every
trainer writes files of its own. In them everything has its place from the start (what is not
written yet takes no room on the disk): a step is put where it belongs, nothing ever moves, and the
files are whole whenever the process ends. A simulation counts once its last step is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from hpckit.errors import ConfigError, HpckitError, together, writing
from hpckit.files import replacing, sync
from hpckit.surrogate.message import message_dtype

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.solver import Solver

_DESCRIPTION = "tape.json"
_FORMAT = 1
_FILE = 64e6  # bytes of values in a file, about
_OPEN = 4  # files that are held open to be written
_STREAMS = ("simulations", "validation")  # simulation -1-i is number i of the second


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


class Simulation(NamedTuple):
    """A recorded one. parameters : (d,); times : (steps,); values : (steps, n), float32."""

    number: int
    parameters: np.ndarray
    times: np.ndarray
    values: np.ndarray


class Tape:
    """A tape that is there, to be read; every trainer opens it for itself. ::

        tape = Tape.open("results/tape")
        tape.check(solver)  # whether it is this solver's
        number, parameters, times, values = tape.read(tape.simulations[0])

    simulations : numbers of those that are whole, in order
    description : what was solved

    Raises `ConfigError` where there is no tape.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.description = _read(self.path)
        self._places = [_places(self.path, stream) for stream in _STREAMS]
        self.simulations = sorted(self._places[0])

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Tape:
        """The one in that folder."""
        return cls(path)

    @staticmethod
    def create(
        path: str | os.PathLike[str], comm: MPI.Intracomm, solver: Solver, resume: bool = False
    ) -> TapeWriter:
        """A new one to write, or where it is resumed, what is there to go on with (collective).

        comm : of the trainers

        Raises `ConfigError` on all where a tape is there already, or one to resume is another's.
        """
        folder = Path(path)
        with together(comm):
            wanted = Description.of(solver)
            if comm.rank == 0:
                _begin(folder, wanted, resume)
        return TapeWriter(folder, wanted, comm.rank)

    def check(self, solver: Solver) -> None:
        """`ConfigError` where it was recorded by another solver."""
        self.description.check(Description.of(solver), self.path)

    def first(self, count: int | None) -> list[int]:
        """So many simulations, from the first on; `ConfigError` where there are fewer."""
        if not self.simulations or (count or 0) > len(self.simulations):
            raise ConfigError(
                f"the tape {self.path} has {len(self.simulations)} whole simulations, but "
                f"{count or 1} are wanted: record more, or ask for fewer"
            )
        return self.simulations[:count]

    @cached_property
    def parameters(self) -> np.ndarray:
        """(simulations, d), in the order of `simulations`."""
        found = [self._row(self._places[0][number], "parameters") for number in self.simulations]
        return np.array(found).reshape(len(found), len(self.description.parameters))

    def read(self, number: int) -> Simulation:
        """The simulation of that number."""
        return self._simulation(0, number)

    def validation(self) -> list[Simulation]:
        """Those that are never trained on, in order."""
        return [self._simulation(1, number) for number in sorted(self._places[1])]

    def source(
        self, simulations: Sequence[int], trainer: int = 0, trainers: int = 1, validation: int = 0
    ) -> TapeSource:
        """A trainer's share of them, step by step, after that of so many for validation.

        Raises `ConfigError` where fewer for validation were recorded.
        """
        there = self._places[1]
        if any(number not in there for number in range(validation)):
            raise ConfigError(
                f"the tape {self.path} has {len(there)} whole simulations for validation, but "
                f"{validation} are wanted: record more, or ask for fewer"
            )
        judges = (
            self._simulation(1, number)._replace(number=-1 - number)
            for number in range(trainer, validation, trainers)
        )
        mine = (self.read(number) for number in simulations if number % trainers == trainer)
        return TapeSource(chain(judges, mine), self.description)

    def _simulation(self, stream: int, number: int) -> Simulation:
        place = self._places[stream][number]
        return Simulation(
            number, *(self._row(place, name) for name in ("parameters", "times", "values"))
        )

    def _row(self, place: tuple[Path, int], name: str) -> np.ndarray:
        import h5py

        path, row = place
        try:
            with h5py.File(path, "r") as file:
                return file[name][row]  # type: ignore[index]
        except (OSError, KeyError) as error:
            raise HpckitError(f"cannot read {name} of the tape's file {path}: {error}") from None


class TapeSource:
    """Messages from a tape, as sources of streams give them: simulation after simulation."""

    late = "the tape"  # for which nobody has to wait

    def __init__(self, simulations: Iterator[Simulation], description: Description) -> None:
        dtype = message_dtype(len(description.parameters), description.size)
        self._message = np.zeros(1, dtype)[0]
        self._steps = description.steps
        self._simulations = simulations
        self._current = next(simulations, None)
        self._step = 0
        self._filled = False

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._current is None

    def peek(self) -> np.void | None:
        """The next message, to be read until it is dropped."""
        if self._current is None:
            return None
        if not self._filled:
            self._fill(self._current)
        return self._message

    def drop(self) -> None:
        """Go on to the one after it."""
        self._filled = False
        self._step += 1
        if self._step == self._steps:
            self._step = 0
            self._current = next(self._simulations, None)

    def state(self) -> None:
        """It begins anew, and leaves out what has come before."""

    def wish(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _fill(self, simulation: Simulation) -> None:
        message, step = self._message, self._step
        message["simulation"] = simulation.number
        message["step"] = step
        message["time"] = simulation.times[step]
        message["parameters"][:] = simulation.parameters
        message["values"][:] = simulation.values[step]
        self._filled = True


class TapeWriter:
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
        stream, place = (_STREAMS[0], number) if number >= 0 else (_STREAMS[1], -1 - number)
        segment, row = divmod(place, self._count)
        step = int(message["step"])
        part = self._part(stream, segment)
        part.put("parameters", message["parameters"], row)
        part.put("times", message["time"], row, step)
        part.put("values", message["values"], row, step)
        if step == self._description.steps - 1:
            part.put("whole", np.ones((), np.uint8), row)

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
            self._datasets = _layout(path)
            self._file = os.open(path, os.O_RDWR)

    def put(self, name: str, values: np.ndarray, *at: int) -> None:
        """Write an entry of a dataset: a row, or a step of it."""
        begin, shape, dtype = self._datasets[name]
        step = int(np.prod(shape[len(at) :])) * dtype.itemsize
        place = begin + step * int(np.ravel_multi_index(at, shape[: len(at)]))
        left = memoryview(np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8))
        with writing(self._path):
            while left:
                done = os.pwrite(self._file, left, place)
                left, place = left[done:], place + done

    def flush(self) -> None:
        with writing(self._path):
            os.fsync(self._file)

    def close(self) -> None:
        self.flush()
        os.close(self._file)


def _begin(folder: Path, wanted: Description, resume: bool) -> None:
    """Make the folder with its description, or see that they are what is wanted."""
    path = folder / _DESCRIPTION
    if path.exists():
        if not resume:
            raise ConfigError(
                f"there is a tape in {folder} already: give another folder, or remove it"
            )
        _read(folder).check(wanted, folder)
        return
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(wanted)) + b"\n")
        sync(folder)


def _read(folder: Path) -> Description:
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


def _places(folder: Path, stream: str) -> dict[int, tuple[Path, int]]:
    """File and row of every whole simulation, by number."""
    import h5py

    places = {}
    for path in sorted(folder.glob(f"{stream}-*.h5")):
        try:
            with h5py.File(path, "r") as file:
                rows = np.flatnonzero(file["whole"][:])  # type: ignore[index]
                first = int(file.attrs["first"])  # type: ignore[arg-type]
        except (OSError, KeyError) as error:
            raise HpckitError(f"cannot read the tape's file {path}: {error}") from None
        places |= {first + int(row): (path, int(row)) for row in rows}
    return places


def _make(path: Path, description: Description, first: int, count: int) -> None:
    """A file for so many simulations with nothing in it."""
    import h5py
    from h5py import h5d, h5p, h5s, h5t

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


def _layout(path: Path) -> dict[str, tuple[int, tuple[int, ...], np.dtype]]:
    """Offset, shape and type of each dataset of a file."""
    import h5py

    with h5py.File(path, "r") as file:
        return {name: (item.id.get_offset(), item.shape, item.dtype) for name, item in file.items()}


def _keys(value: object) -> Iterator[str]:
    """Names in their order: fields and parameters stand in it."""
    yield from value if isinstance(value, dict) else ()
