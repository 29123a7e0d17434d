"""Tapes: simulations that are recorded, to train from as often as one likes.

A tape is a folder. `tape.json` says what was solved; HDF5 files hold the simulations, and every
trainer writes files of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.errors import ConfigError, HpckitError, together
from hpckit.surrogate.message import message_dtype
from hpckit.surrogate.recording import TRAINED, Description, Recording, begin, read_description

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.solver import Solver


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

    description : what was solved
    simulations, validation : numbers of those that are whole, 0, 1, 2, ... and -1, -2, ...

    Raises `ConfigError` where there is no tape.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.description = read_description(self.path)
        self._places = _places(self.path)
        self.simulations = sorted(number for number in self._places if number >= 0)
        self.validation = sorted((n for n in self._places if n < 0), reverse=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Tape:
        """The one in that folder."""
        return cls(path)

    @staticmethod
    def create(
        path: str | os.PathLike[str], comm: MPI.Intracomm, solver: Solver, resume: bool = False
    ) -> Recording:
        """A new one to write, or where it is resumed, what is there to go on with (collective).

        comm : of the trainers

        Raises `ConfigError` on all where a tape is there already, or one to resume is another's.
        """
        folder = Path(path)
        with together(comm):
            wanted = Description.of(solver)
            if comm.rank == 0:
                begin(folder, wanted, resume)
        return Recording(folder, wanted, comm.rank)

    def check(self, solver: Solver) -> None:
        """`ConfigError` where it was recorded by another solver."""
        self.description.check(Description.of(solver), self.path)

    def first(self, count: int | None) -> list[int]:
        """So many simulations, from the first on, or all; `ConfigError` where there are fewer."""
        if not self.simulations or (count or 0) > len(self.simulations):
            raise ConfigError(
                f"the tape {self.path} has {len(self.simulations)} whole simulations, but "
                f"{count or 1} are wanted: record more, or ask for fewer"
            )
        return self.simulations[:count]

    @cached_property
    def parameters(self) -> np.ndarray:
        """(simulations, d), in the order of `simulations`."""
        found = [self._row(number, "parameters") for number in self.simulations]
        return np.array(found).reshape(len(found), len(self.description.parameters))

    def read(self, number: int) -> Simulation:
        """The simulation of that number."""
        names = ("parameters", "times", "values")
        return Simulation(number, *(self._row(number, name) for name in names))

    def source(
        self,
        simulations: Sequence[int],
        trainer: int = 0,
        trainers: int = 1,
        validation: int = 0,
        received: Callable[[int], int] = lambda number: 0,
    ) -> TapeSource:
        """A trainer's share of them, one after the other, after that of so many for validation.

        received : how many steps of a simulation the trainer has already: they do not come again

        Raises `ConfigError` where fewer for validation were recorded.
        """
        judges = range(-1, -1 - validation, -1)
        if set(judges) - set(self.validation):
            raise ConfigError(
                f"the tape {self.path} has {len(self.validation)} whole simulations for "
                f"validation, but {validation} are wanted: record more, or ask for fewer"
            )
        numbers = [*judges[trainer::trainers], *simulations[trainer::trainers]]
        left = ((n, received(n)) for n in numbers if received(n) < self.description.steps)
        return TapeSource(((self.read(n), first) for n, first in left), self.description)

    def _row(self, number: int, name: str) -> np.ndarray:
        import h5py

        path, row = self._places[number]
        try:
            with h5py.File(path, "r") as file:
                return file[name][row]  # type: ignore[index]
        except (OSError, KeyError) as error:
            raise HpckitError(f"cannot read {name} of the tape's file {path}: {error}") from None


class TapeSource:
    """Messages from a tape, as sources of streams give them; each simulation is read at once.

    simulations : each with the first step to give
    """

    late = "the tape"

    def __init__(
        self, simulations: Iterator[tuple[Simulation, int]], description: Description
    ) -> None:
        dtype = message_dtype(len(description.parameters), description.size)
        self._message = np.zeros(1, dtype)[0]
        self._steps = description.steps
        self._simulations = simulations
        self._filled = False
        self._go_on()

    @property
    def over(self) -> bool:
        return self._current is None

    def peek(self) -> np.void | None:
        if self._current is None:
            return None
        if not self._filled:
            self._fill(self._current)
        return self._message

    def drop(self) -> None:
        self._filled = False
        self._step += 1
        if self._step == self._steps:
            self._go_on()

    def state(self) -> None:
        """What has come is in the ledger."""

    def wish(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is open."""

    def _go_on(self) -> None:
        self._current, self._step = next(self._simulations, (None, 0))

    def _fill(self, simulation: Simulation) -> None:
        message, step = self._message, self._step
        message["simulation"] = simulation.number
        message["step"] = step
        message["time"] = simulation.times[step]
        message["parameters"][:] = simulation.parameters
        message["values"][:] = simulation.values[step]
        self._filled = True


def _places(folder: Path) -> dict[int, tuple[Path, int]]:
    """File and row of every whole simulation, by number."""
    import h5py

    places = {}
    for path in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(path, "r") as file:
                rows = np.flatnonzero(file["whole"][:])  # type: ignore[index]
                first = int(file.attrs["first"])  # type: ignore[arg-type]
        except (OSError, KeyError) as error:
            raise HpckitError(f"cannot read the tape's file {path}: {error}") from None
        counted = path.name.startswith(TRAINED)
        for row in rows.tolist():
            places[first + row if counted else -1 - first - row] = path, row
    return places
