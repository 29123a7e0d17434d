"""Where a watch comes in: plans ask their communicator for one, and know nothing else of it.

A communicator that is watched has an attribute `watch`, which `hpckit.watch` sets: so this room
does not import that one, and plans of any other communicator call what they would call anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from mpi4py import MPI

from hpckit.collectives.persistent import Persistent

# What a call says of itself: elements, dtype, operation, root; None: ranks need not agree on it.
Signature = tuple[int | None, np.dtype | None, MPI.Op | None, int | None]
Recording = Callable[[Sequence[Persistent]], list[Persistent]]


class Recorder(Protocol):
    """What a communicator has as `watch`."""

    def plan(self, kind: str, signature: Signature) -> Recording:
        """A plan of this kind is made; what makes its operations, one for each chunk, recorded."""
        ...


def watch_of(comm: MPI.Intracomm) -> Recorder | None:
    """What records the collectives of this communicator; None: nothing does."""
    return getattr(comm, "watch", None)


def recording(
    comm: MPI.Intracomm,
    kind: str,
    array: np.ndarray,
    op: MPI.Op | None = None,
    root: int | None = None,
) -> Recording:
    """What makes the operations of a plan for `array` recorded, where the communicator is watched.

    ::

        operations = recording(comm, "allreduce", array, MPI.SUM)(operations)
    """
    watch = watch_of(comm)
    return watch.plan(kind, (array.size, array.dtype, op, root)) if watch else list
