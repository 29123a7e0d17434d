"""The queues of a study: messages from groups to trainers, assignments the other way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.comm.queues import Queues, Way, open_queues
from hpckit.surrogate.message import assignment_dtype, message_dtype
from hpckit.surrogate.solver import Fields, Solver

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.roles import Roles

_SLOTS = 64  # messages that a queue holds: solvers go on while a trainer takes a gradient step
_MEMORY = 2**22  # bytes of a queue, where that many would take more
_FEWEST = 2


class Connections(NamedTuple):
    """Both kinds of queues, and what is in them."""

    messages: Queues
    assignments: Queues
    message: np.dtype
    assignment: np.dtype

    def close(self) -> None:
        """Let go of them (collective)."""
        self.messages.close()
        self.assignments.close()


def open_connections(
    comm: MPI.Intracomm, roles: Roles, solver: Solver, lanes: int, way: Way = "auto"
) -> Connections:
    """Open the queues between groups and trainers (collective); without groups there are none."""
    roles.check_lanes(lanes)
    message = message_dtype(solver.space.size, Fields.of(solver.fields).size)
    assignment = assignment_dtype(solver.space.size)
    pairs = roles.pairs(lanes)
    slots = max(_FEWEST, min(_SLOTS, _MEMORY // message.itemsize))
    messages = open_queues(comm, pairs, message.itemsize, slots, way)
    back = [(trainer, root) for root, trainer in pairs]
    # One for each lane, and the last.
    assignments = open_queues(comm, back, assignment.itemsize, lanes + 1, way)
    return Connections(messages, assignments, message, assignment)
