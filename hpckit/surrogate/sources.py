"""Where a trainer gets its messages, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from hpckit.surrogate.assignments import Assigner
from hpckit.surrogate.message import message_dtype
from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.solver import Fields, Solver
from hpckit.surrogate.solving import Runs


class Source(Protocol):
    """What gives a trainer one message after the other.

    over : nothing more will come
    late : who has to send the message whose turn it is, for errors
    """

    @property
    def over(self) -> bool: ...

    @property
    def late(self) -> str: ...

    def peek(self) -> np.void | None:
        """The message whose turn it is, to read until `drop`; None: it has not come yet."""
        ...

    def drop(self) -> None:
        """Done with it."""
        ...

    def state(self) -> Any:
        """What a restart needs to go on, as JSON."""
        ...

    def wish(self) -> int:
        """The exit code that a signal asked ranks for whose messages have come, 0: none."""
        ...

    def close(self) -> None:
        """Tell those who send to stop."""
        ...


class Inline:
    """A trainer without solver ranks solves itself, in the order of the lanes."""

    late = "this rank"  # which never has to wait for itself

    def __init__(
        self, solver: Solver, rotation: Rotation, lanes: Sequence[int], assigner: Assigner
    ) -> None:
        size = Fields.of(solver.fields).size
        self._message = np.zeros(1, message_dtype(solver.space.size, size))[0]
        self._runs = Runs(solver, MPI.COMM_SELF)
        self._assigner = assigner
        self._turns = rotation.turns(lanes, assigner.received)
        assigner.begin()
        self._turn = next(self._turns, None)
        self._solved = False

    @property
    def over(self) -> bool:
        return self._turn is None

    def peek(self) -> np.void | None:
        if self._turn is None:
            return None
        if not self._solved:
            _, lane, simulation, step = self._turn
            parameters = self._assigner.open[simulation]
            self._runs.give(lane, simulation, step, parameters, self._message)
            self._solved = True
        return self._message

    def drop(self) -> None:
        assert self._turn is not None
        _, lane, simulation, step = self._turn
        self._assigner.took(lane, simulation, step)
        self._turn = next(self._turns, None)
        self._solved = False

    def state(self) -> dict[str, list[float]]:
        return self._assigner.state()

    def wish(self) -> int:
        return 0

    def close(self) -> None:
        self._runs.close()
