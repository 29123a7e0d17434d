"""Fair times of collectives: ways take turns, ranks begin together, every array is fresh and every
result is read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.collectives import Allreduce
from hpckit.errors import HpckitError, meet
from hpckit.machine.pingpong import clock_offset

_LEAST, _MOST = 5, 1000  # calls of each way


class Numbers:
    """What every rank writes into its array before a call, and finds there after it, without asking
    another rank.

    In call k element i of rank r is (i mod 97) + r (i mod 7) + k: whole numbers, whose sums are
    exact in any order.

    array : (n,), real; result : where the sum will be, by default there
    """

    def __init__(
        self, comm: MPI.Intracomm, array: np.ndarray, result: np.ndarray | None = None
    ) -> None:
        self.array, self.result, self._size = array, array if result is None else result, comm.size
        self._mine = self._pattern(1, comm.rank)
        self._sum = self._pattern(comm.size, comm.size * (comm.size - 1) / 2).sum()

    def write(self, call: int) -> None:
        np.add(self._mine, call, out=self.array)

    def read(self, call: int) -> bool:
        """Whether the elements of the result have the right sum: each of them is read."""
        return self.result.sum(dtype=float) == self._sum + call * self._size * self.result.size

    def check(self, call: int) -> bool:
        """Whether every element of the result is right."""
        return np.array_equal(self.result, self.expected(call))

    def expected(self, call: int) -> np.ndarray:
        """(n,), what the result must be."""
        return self._pattern(self._size, self._size * (self._size - 1) / 2) + call * self._size

    def _pattern(self, ones: float, ranks: float) -> np.ndarray:
        n = self.array.size
        return ones * np.resize(np.arange(97.0), n) + ranks * np.resize(np.arange(7.0), n)


@dataclass(frozen=True)
class Call:
    """One way to make the sum of `numbers`; `plan`, where it uses one, may race in its first
    calls.
    """

    run: Callable[[], object]
    numbers: Numbers
    plan: Allreduce | None = None

    def settled(self) -> bool:
        """Whether it stays as it is."""
        return self.plan is None or self.plan.algorithm != "auto"


class Start:
    """Lets all ranks begin at one moment, and says when that was, on this rank's `time.monotonic`.

    On one node that is the end of a barrier. Between nodes its ends lie latencies apart, so there
    the ranks agree on a moment; machines' clocks are compared once, by messages.
    """

    def __init__(self, comm: MPI.Intracomm, one_node: bool) -> None:
        self._comm, self._moment = comm, np.zeros(1)
        self._ahead = self._lead = 0.0
        if not one_node:
            self._ahead = -clock_offset(comm)
            self._lead = 2 * max(self._last_to_hear() for _ in range(3)) + 1e-3

    def __call__(self) -> float:
        self._comm.Barrier()
        if not self._lead:
            return time.monotonic()
        begin = self._announce(self._lead)
        time.sleep(max(begin - time.monotonic() - 2e-4, 0.0))
        while time.monotonic() < begin:
            os.sched_yield()
        return begin

    def end(self) -> None:
        """Between nodes, wait until all ranks are done: emulated ones share cores, and reading a
        result takes time.
        """
        if self._lead:
            meet(self._comm)

    def _announce(self, lead: float) -> float:
        self._moment[0] = time.monotonic() + lead
        self._comm.Bcast(self._moment)
        return self._moment[0] + self._ahead

    def _last_to_hear(self) -> float:
        """Seconds until every rank has heard of a moment."""
        self._comm.Barrier()
        now = self._announce(0.0)
        return self._comm.allreduce(time.monotonic() - now, MPI.MAX)


def interleaved(
    comm: MPI.Intracomm,
    calls: Mapping[str, Call],
    start: Start,
    seconds: float,
    between: Callable[[], object] = lambda: None,
) -> dict[str, np.ndarray]:
    """The times of all calls, (repeats,) seconds, the slowest rank's; as many as fit into `seconds`
    (collective).

    between : called on all ranks before each round of all ways

    Raises `HpckitError` where a result is wrong.
    """
    names = list(calls)

    def sample(name: str, number: int, whole: bool = False) -> float:
        call = calls[name]
        call.numbers.write(number)
        begin = start()
        call.run()
        spent = time.monotonic() - begin
        start.end()
        if not (call.numbers.check if whole else call.numbers.read)(number):
            raise HpckitError(
                f"{name} gave a wrong sum of {call.numbers.array.nbytes} bytes on rank {comm.rank}"
            )
        return spent

    begin, rounds = time.monotonic(), 0
    while rounds < 3 or not all(call.settled() for call in calls.values()):
        between()
        begin, rounds = time.monotonic(), rounds + 1
        for name in names:
            sample(name, rounds, whole=rounds <= 2)
    repeats = comm.bcast(int(np.clip(seconds / (time.monotonic() - begin), _LEAST, _MOST)))
    times = np.empty((repeats, len(names)))
    for repeat in range(repeats):
        between()
        for column in np.random.default_rng(repeat).permutation(
            len(names)
        ):  # who follows whom matters to the caches
            times[repeat, column] = sample(names[column], repeat)
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return dict(zip(names, times.T, strict=True))
