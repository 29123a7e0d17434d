"""Simulations under way: the solver is run, step after step, and what it gives is checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError, HpckitError, cause
from hpckit.surrogate.solver import Fields, Solver

if TYPE_CHECKING:
    from mpi4py import MPI


class Runs:
    """The simulations under way on the ranks of a group, one in each lane.

    comm : of the group, for the solver
    """

    def __init__(self, solver: Solver, comm: MPI.Intracomm) -> None:
        self._solver = solver
        self._fields = Fields.of(solver.fields)
        self._comm = comm
        self._of: dict[int, _Run] = {}

    def give(
        self, lane: int, simulation: int, step: int, parameters: np.ndarray, message: np.void | None
    ) -> None:
        """Go on to this step of a simulation and write it into a message; None: on other ranks.

        Steps before it that were not given are solved and dropped. Raises `HpckitError` where the
        solver fails, `ConfigError` where it gives what it should not.
        """
        run = self._of.get(lane)
        if run is None or run.simulation != simulation:
            run = self._of[lane] = _Run(self._solver, self._comm, simulation, parameters)
        given = run.go_to(step)
        if message is not None:
            message["simulation"] = simulation
            message["step"] = step
            message["lane"] = lane
            message["parameters"] = parameters
            run.write(given, self._fields, message)
        if step + 1 == self._solver.steps:
            self._of.pop(lane).finish()

    def close(self) -> None:
        """Leave what is not whole."""
        for run in self._of.values():
            run.close()
        self._of.clear()


class _Run:
    """A simulation under way."""

    def __init__(
        self, solver: Solver, comm: MPI.Intracomm, simulation: int, parameters: np.ndarray
    ) -> None:
        self.simulation = simulation
        self._values = dict(zip(solver.space.names, parameters.tolist(), strict=True))
        self._steps = solver.steps
        self._next = 0  # the step that comes next
        self._time = -math.inf
        try:
            self._iterator = iter(solver.run(dict(self._values), comm))
        except Exception as error:
            raise self._failed(error, 0) from error

    def go_to(self, step: int) -> Any:
        """What the solver yields for this step."""
        given = None
        while self._next <= step:
            try:
                given = next(self._iterator)
            except StopIteration:
                ended = f"the solver ended, it must yield {self._steps} times"
                raise self._failed(ConfigError(ended), self._next) from None
            except Exception as error:
                raise self._failed(error, self._next) from error
            self._next += 1
        return given

    def write(self, given: Any, fields: Fields, message: np.void) -> None:
        try:
            time, values = _parts(given)
            if not self._time < time < math.inf:
                raise ConfigError(
                    f"time {time} must be finite and increase, it was {self._time} before"
                )
            fields.pack(values, message["values"])
        except HpckitError as error:
            raise self._failed(error, self._next - 1) from None
        self._time = message["time"] = time

    def finish(self) -> None:
        """Let the solver clean up after its last step."""
        try:
            next(self._iterator)
        except StopIteration:
            return
        except Exception as error:
            raise self._failed(error, self._next) from error
        too_many = f"the solver goes on, it must yield {self._steps} times"
        raise self._failed(ConfigError(too_many), self._next)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def _failed(self, error: Exception, step: int) -> HpckitError:
        """The same in one line that says where."""
        kind = ConfigError if isinstance(error, ConfigError) else HpckitError
        values = ", ".join(f"{name} = {value:g}" for name, value in self._values.items())
        return kind(f"simulation {self.simulation} ({values}), step {step}: {cause(error)}")


def _parts(given: Any) -> tuple[float, Any]:
    try:
        time, values = given
        return float(time), values
    except (TypeError, ValueError):
        raise ConfigError(
            f"the solver gave {type(given).__name__}, it must yield a time and a dict of fields"
        ) from None
