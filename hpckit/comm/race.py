"""Lets the ways of doing a thing take turns in real calls, until the fastest stays.

Every decision is taken on numbers that all ranks share, the slowest rank's.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from itertools import product

import numpy as np
from mpi4py import MPI

_ROUNDS = 8
_BUDGET = 1.0  # seconds: after the least rounds the race ends with the round in which it has used them


class Race:
    """Among `names`; every rank tells the time of every call, and all ranks get the same winner.

    turn : calls in a row per way and round: the first warms up and is not counted
    least : rounds at least
    way : the one to take next, the winner once the race is `over`
    measured : seconds of the ways that ran, the slowest rank's
    """

    def __init__(self, comm: MPI.Intracomm, names: Sequence[str], turn: int = 5, least: int = 3) -> None:
        self.measured: dict[str, float] = {}
        self.over = False
        self._comm, self._turn, self._least = comm, turn, least
        self._referee = self._race(list(names))
        self.way = next(self._referee)
        self.tell(None)

    def tell(self, seconds: float | None) -> None:
        """The time of the call just made by `way` (collective now and then)."""
        if not self.over:
            self.way = self._referee.send(seconds)

    def _race(self, names: list[str]) -> Generator[str, float | None, None]:
        yield names[0]
        best, began = dict.fromkeys(names, float("inf")), time.perf_counter()
        for number in range(1, _ROUNDS + 1):
            if len(names) == 1:
                break
            for name, turn in product(names, range(self._turn)):
                seconds = yield name
                if turn and seconds is not None:
                    best[name] = min(best[name], seconds)
            spent = time.perf_counter() - began
            *times, spent = self._slowest([*(best[name] for name in names), spent])
            self.measured.update(zip(names, times, strict=True))
            last = number == _ROUNDS or (number >= self._least and spent > _BUDGET)
            limit = min(times) * (1 if last else 1 + 2 / number)  # on a noisy machine the first rounds say little
            names = [name for name, seconds in zip(names, times, strict=True) if seconds <= limit]
        self.over = True
        yield names[0]

    def _slowest(self, seconds: list[float]) -> list[float]:
        """Each number's maximum over the ranks: what all ranks decide on."""
        shared = np.array(seconds)
        self._comm.Allreduce(MPI.IN_PLACE, shared, MPI.MAX)
        return shared.tolist()
