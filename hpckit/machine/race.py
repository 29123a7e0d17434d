"""Lets candidates that do the same take turns in real calls; the fastest stays for a while.

Then all of them run again. One look is not enough: what else runs on the machine while it lasts has
a say in it, and what is fastest on a quiet machine need not be on a busy one. So there are more
looks, ever more rarely, and a candidate is judged by its best time in the last three of them: a
disturbance must hit all three to be believed. All looks together may lose two per cent of the time
of the calls themselves, whatever a program does between them (ten per cent until there are three).
Every decision is taken on numbers that all ranks share, the slowest rank's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from itertools import product

import numpy as np
from mpi4py import MPI

_ROUNDS, _MORE = 8, 2  # rounds at most in the first look, and in each later one
_BUDGET = 1.0  # seconds: after the least rounds, a look that has used them ends with its round
_LOOKS = 3  # that a candidate is judged by
_BETTER = 0.97  # of the time of the current one: another's gain must be worth the change
_HOPELESS = 4.0  # times the fastest: those that are so slow in all those looks run no more
_SHARE = 0.02  # of the calls' own time may be lost in looks
_EARLY = 0.1  # that share until there are as many looks as a verdict needs
_FIRST, _LONGEST = 0.02, 60.0  # seconds between looks: twice as many each time, until the longest
_UNMEASURED = 100  # calls until the first look, where a winner is known from elsewhere


class Race:
    """Among `names`: while it is on, ranks tell the time of every call; all get one winner.

    turn : calls in a row per candidate and round: the first warms up and is not counted
    least : rounds at least in the first look
    known : the one to begin with, where an earlier race has found it

    current : the one to take for the call that `next` began
    over : whether that is the winner, for the next `rest` calls (None: for ever); then call `again`
    winner : of the last look; None before the first one is over
    measured : seconds of those that ran, the slowest rank's

    ::

        race = Race(comm, ["one", "other"])
        while not race.over:
            took = timed(race.next())  # do it by that one
            race.tell(took)
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        names: Sequence[str],
        turn: int = 5,
        least: int = 3,
        known: str | None = None,
    ) -> None:
        self.measured: dict[str, float] = {}
        self.winner = names[0] if len(names) == 1 else known
        self.current = self.winner or names[0]
        self.over = self.winner is not None
        self.rest = None if len(names) == 1 else _UNMEASURED
        self._comm = comm
        self._turn = turn
        self._least = least
        self._pause = _FIRST
        self._seen: dict[str, deque[float]] = {name: deque(maxlen=_LOOKS) for name in names}
        self._told: float | None = None
        self._referee = self._look(names)

    def next(self) -> str:
        """The one for the call that begins now (now and then collective, in order of beginning)."""
        if not self.over:
            self.current, self._told = self._referee.send(self._told), None
        return self.current

    def tell(self, seconds: float) -> None:
        """What the call that `next` began took on this rank."""
        self._told = seconds

    def again(self, names: Sequence[str] | None = None, forget: bool = False) -> None:
        """All candidates run once more, from the next call on.

        names : those that take part; by default all
        forget : what was measured so far holds no more
        """
        if forget:
            for seen in self._seen.values():
                seen.clear()
            self._pause = _FIRST
        self.over = False
        self._told = None
        self._referee = self._look(names or list(self._seen))

    def _look(self, names: Sequence[str]) -> Generator[str, float | None, None]:
        names = [name for name in names if not self._is_hopeless(name)]
        calls, spent, taken, lost = 0, 0.0, 0.0, 0.0
        best, shared = dict.fromkeys(names, float("inf")), dict[str, float]()
        first, began = not any(self._seen.values()), time.perf_counter()
        rounds, least = (_ROUNDS, self._least) if first else (_MORE, 1)
        for number in range(1, rounds + 1):
            for name, turn in product(names, range(self._turn)):
                seconds = yield name
                calls += 1
                taken += seconds or 0.0
                if turn and seconds is not None:
                    best[name] = min(best[name], seconds)
            *times, spent, lost = self._slowest(
                [*(best[name] for name in names), time.perf_counter() - began, taken]
            )
            shared.update(zip(names, times, strict=True))
            last = number == rounds or (number >= least and spent > _BUDGET)
            limit = min(times) * (1 + 2 / number)  # on a noisy machine the first rounds say little
            names = [name for name in names if shared[name] <= limit]
            if last or len(names) == 1:
                break
        self._judge(shared)
        lost -= calls * min(shared.values())
        self._pause = min(2 * self._pause, _LONGEST)
        judged = max(map(len, self._seen.values())) == _LOOKS
        share = _SHARE if judged else _EARLY
        per_call = share * min(shared.values())
        paid = lost / per_call  # calls that take 1 / share times what was lost
        self.rest = 1 + int(max(self._pause * calls / spent, paid))
        self.over = True
        yield self.current

    def _judge(self, times: dict[str, float]) -> None:
        for name, seconds in times.items():
            self._seen[name].append(seconds)
        self.measured = {name: min(seen) for name, seen in self._seen.items() if seen}
        fastest = min(self.measured, key=self.measured.__getitem__)
        if self.winner is None or self.measured[fastest] < _BETTER * self.measured[self.winner]:
            self.winner = fastest
        self.current = self.winner

    def _is_hopeless(self, name: str) -> bool:
        if len(self._seen[name]) < _LOOKS:
            return False
        return self.measured[name] > _HOPELESS * min(self.measured.values())

    def _slowest(self, seconds: list[float]) -> list[float]:
        """Each number's maximum over the ranks: what all ranks decide on."""
        shared = np.array(seconds)
        self._comm.Allreduce(MPI.IN_PLACE, shared, MPI.MAX)
        return shared.tolist()
