"""Way `auto`: the machine model names the likely best ways, the first exchanges race them, the fastest stays.

No fixed way is good everywhere: each loses by 2 to 13 times somewhere (docs/halo.md). All ways fill the same bytes, so
racing them costs nothing but the time of a slower one, a few times. Every decision is taken on numbers that all ranks
share, the slowest rank's.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.comm.race import Race
from hpckit.comm.system import System
from hpckit.errors import HpckitError
from hpckit.halo.packed import Bound
from hpckit.halo.shared import can_read_directly
from hpckit.halo.ways import WAYS, Way
from hpckit.log import get_logger

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.halo.plan import Plan

_RACERS = 3

_systems: weakref.WeakKeyDictionary[Grid, System] = weakref.WeakKeyDictionary()
_chosen: weakref.WeakKeyDictionary[Grid, dict[tuple, str]] = weakref.WeakKeyDictionary()


class Auto:
    """Chooses among the ways for one plan; `on_choice` is called when the race is over."""

    def __init__(self, plan: Plan, tag: int, arrays: Sequence[np.ndarray], on_choice: Callable[[], None]) -> None:
        direct = bool(plan.grid.comm.allreduce(can_read_directly(plan.grid, arrays), MPI.LAND))
        self._plan, self._on_choice = plan, on_choice
        self._choices, self._key = _chosen.setdefault(plan.grid, {}), (plan.signature(), direct)
        self._predicted = predict(plan, direct)
        known = self._choices.get(self._key)
        ranking = sorted(self._predicted, key=self._predicted.__getitem__)
        self._ways = self._make([known] if known else ranking[:_RACERS], tag)
        self._race = Race(plan.grid.comm, list(self._ways))
        self._told: float | None = None  # what the last exchange took; the race hears it when the next one starts
        self._finish()

    @property
    def method(self) -> str:
        """The way that was chosen, or "auto" while the race is on."""
        return self._race.way if self._race.over else "auto"

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        bound = {name: way.bind(arrays) for name, way in self._ways.items()}
        return bound[self.method] if self._race.over else self._timed(bound)

    def explain(self) -> list[str]:
        """Predicted and measured time of each way, as lines of a table."""
        lines = [f"{'way':<10} {'predicted':>12} {'measured':>12}   (microseconds, slowest rank)"]
        for name, seconds in sorted(self._predicted.items(), key=lambda item: item[1]):
            known = self._race.measured
            measured = f"{1e6 * known[name]:12.1f}" if name in known else f"{'-':>12}"
            lines.append(f"{name:<10} {1e6 * seconds:12.1f} {measured}{'   chosen' if name == self.method else ''}")
        return lines

    def _make(self, names: Sequence[str], tag: int) -> dict[str, Way]:
        """The racing ways; one that this MPI does wrongly (all ranks find that together) is left out."""
        ways: dict[str, Way] = {}
        for name in names:
            try:
                ways[name] = WAYS[name](self._plan, tag)
            except HpckitError as error:
                get_logger(__name__).warning("halo method %s is left out: %s", name, error)
        return ways or {"packed": WAYS["packed"](self._plan, tag)}

    def _timed(self, bound: dict[str, Bound]) -> Bound:
        """An exchange by the way whose turn it is, its time told to the race."""
        clock, spent = time.perf_counter, 0.0

        def start() -> None:
            nonlocal spent
            if self._told is not None:
                self._race.tell(self._told)
                self._told = None
                self._finish()
            begin = clock()
            bound[self._race.way].start()
            spent = clock() - begin

        def wait() -> None:
            begin = clock()
            bound[self._race.way].wait()
            if not self._race.over:
                self._told = spent + clock() - begin

        def poll() -> bool:
            return bound[self._race.way].poll()

        return Bound.of(start, wait, poll, self)

    def _finish(self) -> None:
        if self._race.over:
            self._choices[self._key] = self._race.way
            self._ways = {self._race.way: self._ways[self._race.way]}
            self._on_choice()


def predict(plan: Plan, direct: bool) -> dict[str, float]:
    """Seconds of one exchange by each way, from the machine model: the slowest rank's (collective)."""
    system, near = _system(plan.grid), set(plan.grid.node_memory.ranks)
    costs = dict.fromkeys(WAYS, 0.0)
    for link in plan.links:
        same = link.rank in near
        sends, receives = plan.pieces(link.sends), plan.pieces(link.receives)
        nbytes = sum(n for n, _ in sends)
        pack = sum(system.pack(*piece) for piece in sends)
        packed = pack + sum(system.unpack(*piece) for piece in receives) + system.message(nbytes, same)
        rows = sum(n / row for n, row in sends)
        costs["datatype"] += system.datatype(nbytes, int(nbytes / rows), same) if rows else 0.0
        costs["packed"] += packed
        costs["neighbor"] += 1.2 * packed  # the same bytes, and more to do inside MPI
        costs["shared"] += pack + sum(system.shared(*piece) for piece in receives) if same else packed
        costs["direct"] += sum(system.direct(*piece) for piece in receives) if same else packed
    flags = system.flag() if any(link.rank in near for link in plan.links) else 0.0
    costs["shared"] += flags
    costs["direct"] += 2 * flags
    slowest = np.array([*costs.values()])
    plan.grid.comm.Allreduce(MPI.IN_PLACE, slowest, MPI.MAX)
    costs = dict(zip(costs, slowest.tolist(), strict=True))
    return {name: cost for name, cost in costs.items() if name != "direct" or direct}


def _system(grid: Grid) -> System:
    """The machine model, looked up once per grid (collective)."""
    if grid not in _systems:
        _systems[grid] = System.load_or_measure(grid.comm)
    return _systems[grid]
