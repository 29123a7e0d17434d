"""Simulations under way: the solver is run, step after step, and what it gives is checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError, HpckitError, cause
from hpckit.surrogate.solver import Fields, Solver

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.space import Box


class Order(NamedTuple):
    """The step that a group solves next."""

    lane: int
    simulation: int
    step: int
    parameters: np.ndarray


class Runs:
    """The simulations under way on the ranks of a group, one in each lane.

    comm : of the group, for the solver
    """

    def __init__(self, solver: Solver, comm: MPI.Intracomm) -> None:
        self._solver = solver
        self._fields = Fields.of(solver.fields)
        self._comm = comm
        self._of: dict[int, _Run] = {}

    def give(self, order: Order, message: np.void | None) -> None:
        """Go on to the step of this order and write it into a message; None: on other ranks.

        Steps before it that were not given are solved and dropped. Raises `HpckitError` where the
        solver fails, `ConfigError` where it gives what it should not.
        """
        run = self._of.get(order.lane)
        if run is None or run.simulation.number != order.simulation:
            simulation = Simulation(order, self._solver.space, self._fields)
            run = self._of[order.lane] = _Run(self._solver, self._comm, simulation)
        given = run.go_to(order.step)
        if message is not None:
            run.simulation.write(order.step, given, message)
        if order.step + 1 == self._solver.steps:
            self._of.pop(order.lane).finish()

    def close(self) -> None:
        """Leave what is not whole."""
        for run in self._of.values():
            run.close()
        self._of.clear()


class Simulation:
    """A simulation whose steps are checked, and written into messages."""

    def __init__(self, order: Order, space: Box, fields: Fields) -> None:
        self.number = order.simulation
        self.parameters = space.dict(order.parameters)
        self._order = order
        self._fields = fields
        self._time = -math.inf  # of the last step

    def write(self, step: int, given: Any, message: np.void) -> None:
        """Write a step: a pair of time and fields."""
        try:
            time, values = _parts(given)
            if not self._time < time < math.inf:
                raise ConfigError(
                    f"time {time} must be finite and increase, it was {self._time} before"
                )
            self._fields.pack(values, message["values"])
        except HpckitError as error:
            raise self.failed(error, step) from None
        self._time = message["time"] = time
        message["simulation"] = self.number
        message["step"] = step
        message["lane"] = self._order.lane
        message["parameters"] = self._order.parameters

    def failed(self, error: Exception, step: int) -> HpckitError:
        """The same error in one line that says where."""
        kind = ConfigError if isinstance(error, ConfigError) else HpckitError
        values = ", ".join(f"{name} = {value:g}" for name, value in self.parameters.items())
        return kind(f"simulation {self.number} ({values}), step {step}: {cause(error)}")


class _Run:
    """The solver at work on a simulation."""

    def __init__(self, solver: Solver, comm: MPI.Intracomm, simulation: Simulation) -> None:
        self.simulation = simulation
        self._steps = solver.steps
        self._next = 0  # the step that comes next
        try:
            self._iterator = iter(solver.run(dict(simulation.parameters), comm))
        except Exception as error:
            raise simulation.failed(error, 0) from error

    def go_to(self, step: int) -> Any:
        """What the solver yields for this step."""
        given = None
        while self._next <= step:
            try:
                given = next(self._iterator)
            except StopIteration:
                ended = f"the solver ended, it must yield {self._steps} times"
                raise self.simulation.failed(ConfigError(ended), self._next) from None
            except Exception as error:
                raise self.simulation.failed(error, self._next) from error
            self._next += 1
        return given

    def finish(self) -> None:
        """Let the solver clean up after its last step."""
        try:
            next(self._iterator)
        except StopIteration:
            return
        except Exception as error:
            raise self.simulation.failed(error, self._next) from error
        too_many = f"the solver goes on, it must yield {self._steps} times"
        raise self.simulation.failed(ConfigError(too_many), self._next)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


def _parts(given: Any) -> tuple[float, Any]:
    try:
        time, values = given
        return float(time), values
    except (TypeError, ValueError):
        raise ConfigError(
            f"the solver gave {type(given).__name__}, it must yield a time and a dict of fields"
        ) from None
