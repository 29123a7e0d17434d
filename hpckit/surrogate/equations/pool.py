"""Solvers of `hpckit.pde` that serve one simulation after the other: making one takes longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.comm.gather import Gather

_SAFE = 0.9  # of the largest stable time step
_SAME = MPI.IDENT, MPI.CONGRUENT


class March(NamedTuple):
    """A solver, and what brings each of its fields to the root.

    thin : every so many-th cell of each dimension is given.
    """

    solver: Any
    gather: dict[str, Gather]
    thin: int

    def steps(self, count: int, dt: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """From the time of the solver on, `count` times `dt` in stable time steps. ::

        yield from march.steps(100, 0.01)
        """
        stable = _SAFE * self.solver.dt_max
        parts = math.ceil(dt / stable) if stable < dt else 1
        for step in range(count):
            self.solver.advance(dt / parts, parts)
            yield (step + 1) * dt, self.whole()

    def whole(self) -> dict[str, Any]:
        """The fields on rank 0; None in their places elsewhere (collective)."""
        fields, owned = self.solver.fields, self.solver.grid.owned
        found = {name: gather(fields[name][owned]) for name, gather in self.gather.items()}
        return {name: None if u is None else self._thinned(u) for name, u in found.items()}

    def _thinned(self, field: np.ndarray) -> np.ndarray:
        return field[(slice(None, None, self.thin),) * field.ndim]


class Pool:
    """Those that are free.

    make : gives a solver on the ranks of a communicator (collective).

    ::

        pool = Pool(lambda comm: pde.Heat(Grid(comm, shape), 1 / 32))
        march = pool.take(comm)
        yield from march.steps(100, 0.01)
        pool.give_back(march)
    """

    def __init__(self, make: Callable[[MPI.Intracomm], Any], thin: int = 1) -> None:
        self._make = make
        self._thin = thin
        self._free: list[March] = []

    def take(self, comm: MPI.Intracomm) -> March:
        """One that is free, its time set back to 0, or a new one (collective)."""
        for i, march in enumerate(self._free):
            if MPI.Comm.Compare(march.solver.grid.comm, comm) in _SAME:
                march.solver.time = 0.0
                return self._free.pop(i)
        solver = self._make(comm)
        gather = {name: Gather(solver.grid, solver.dtype) for name in solver.fields}
        return March(solver, gather, self._thin)

    def run(self, march: March, steps: int, dt: float) -> Iterator[tuple[float, dict[str, Any]]]:
        """A simulation of a solver that was set: `steps` fields from time 0 on, then it is free. ::

        yield from pool.run(march, 21, 0.05)
        """
        yield 0.0, march.whole()
        yield from march.steps(steps - 1, dt)
        self.give_back(march)

    def give_back(self, march: March) -> None:
        """After a simulation's end: one that was broken off gives nothing back, on any rank."""
        self._free.append(march)
