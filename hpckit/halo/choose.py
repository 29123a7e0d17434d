"""Way `auto`: the machine model names the likely best ways, exchanges now and then race them, the
fastest stays.

No fixed way is good everywhere: each loses by 2 to 13 times somewhere (docs/halo.md). All ways fill
the same bytes, so racing them costs nothing but the time of a slower one, a few times. Every
decision is taken on numbers that all ranks share, the slowest rank's, and when an exchange starts:
waiting may come in any order.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.comm.system import System
from hpckit.errors import HpckitError
from hpckit.halo.packed import DOING, MEETING, Bound, NotBegun
from hpckit.halo.shared import can_read_directly
from hpckit.halo.ways import WAYS, Way
from hpckit.log import get_logger
from hpckit.machine.race import Race
from hpckit.machine.spin import Meeting

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.halo.plan import Plan

_RACERS = 3

_systems: weakref.WeakKeyDictionary[Grid, System] = weakref.WeakKeyDictionary()
_chosen: weakref.WeakKeyDictionary[Grid, dict[tuple, str]] = weakref.WeakKeyDictionary()


class Auto:
    """Chooses among the ways for one plan; `on_choice` is called when another bound exchange is to
    be made.
    """

    def __init__(
        self, plan: Plan, tag: int, arrays: Sequence[np.ndarray], on_choice: Callable[[], None]
    ) -> None:
        direct = bool(plan.grid.comm.allreduce(can_read_directly(plan.grid, arrays), MPI.LAND))
        self._plan, self._tag, self._on_choice = plan, tag, on_choice
        self._choices, self._key = _chosen.setdefault(plan.grid, {}), (plan.signature(), direct)
        self._predicted = predict(plan, direct)
        ranking, known = (
            sorted(self._predicted, key=self._predicted.__getitem__),
            self._choices.get(self._key),
        )
        self._likely = [name for name in ranking if name == known or name in ranking[:_RACERS]]
        self._ways: dict[str, Way] = {}
        self._make([known] if known else self._likely)
        known = known if known in self._ways else None
        self._race = Race(plan.grid.comm, self._likely if known else list(self._ways), known=known)
        self._method = self._race.way if self._race.over else "auto"
        self._due = self._countdown()
        met = plan.grid.comm, tag + MEETING, plan.deadline, DOING
        self._meeting = None if plan.deadline is None else Meeting(*met)

    @property
    def method(self) -> str:
        """The way that was chosen, or "auto" while the first race is on."""
        return self._method

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        if self._race.over:
            return self._counted(self._ways[self._race.way].bind(arrays))
        return self._timed({name: way.bind(arrays) for name, way in self._ways.items()})

    def explain(self) -> list[str]:
        """Predicted and measured time of each way, as lines of a table."""
        lines = [f"{'way':<10} {'predicted':>12} {'measured':>12}   (microseconds, slowest rank)"]
        for name, seconds in sorted(self._predicted.items(), key=lambda item: item[1]):
            known = self._race.measured
            measured = f"{1e6 * known[name]:12.1f}" if name in known else f"{'-':>12}"
            lines.append(
                f"{name:<10} {1e6 * seconds:12.1f} "
                f"{measured}{'   chosen' if name == self.method else ''}"
            )
        return lines

    def _make(self, names: Sequence[str]) -> None:
        """The ways that race; one that this MPI does wrongly (all ranks find that together) is left
        out.
        """
        for name in names:
            try:
                self._ways[name] = WAYS[name](self._plan, self._tag)
            except HpckitError as error:
                get_logger(__name__).warning("halo method %s is left out: %s", name, error)
        if not self._ways:
            self._ways["packed"] = WAYS["packed"](self._plan, self._tag)

    def _timed(self, bound: dict[str, Bound]) -> Bound:
        """An exchange by the way whose turn it is, its time told to the race."""
        clock, race, began, spent = time.perf_counter, self._race, 0.0, 0.0

        def start() -> None:
            nonlocal began, spent
            if not race.over:
                self._meet()
                race.next()
                if race.over:
                    self._settle()
            began = clock()
            bound[race.way].start()
            spent = clock() - began

        def wait() -> None:
            began = clock()
            bound[race.way].wait()
            race.tell(spent + clock() - began)

        def poll() -> bool:
            return bound[race.way].poll()

        return Bound.of(start, wait, poll, self)

    def _settle(self) -> None:
        """The race is over, for now."""
        self._method = self._choices[self._key] = self._race.way
        self._due = self._countdown()
        self._on_choice()

    def _counted(self, bound: Bound) -> Bound:
        """An exchange by the chosen way, until it is time for another race: that begins with the
        next one.
        """
        due = self._due

        def start() -> None:
            if due():
                self._reopen()
            bound.start()

        def exchange() -> None:
            if due():
                self._reopen()
            bound.exchange()

        return bound._replace(start=start, exchange=exchange, owner=(self, bound.owner))

    def _countdown(self) -> Callable[[], bool]:
        """False for as many exchanges as the chosen way stays, then true; one for all arrays."""
        rest = self._race.rest
        waits = itertools.repeat(False) if rest is None else itertools.repeat(False, rest)
        return itertools.chain(waits, itertools.repeat(True)).__next__

    def _meet(self) -> None:
        """Before the ranks agree on something: MPI's collectives know no deadline."""
        if self._meeting:
            try:
                self._meeting()
            except HpckitError as late:
                raise NotBegun(str(late)) from None

    def _reopen(self) -> None:
        self._meet()
        self._make([name for name in self._likely if name not in self._ways])
        self._likely = list(self._ways)
        self._race.again(self._likely)
        self._on_choice()


def predict(plan: Plan, direct: bool) -> dict[str, float]:
    """Seconds of one exchange by each way, from the machine model: the slowest rank's
    (collective).
    """
    system, near = _system(plan.grid), set(plan.grid.node_memory.ranks)
    costs = dict.fromkeys(WAYS, 0.0)
    for link in plan.links:
        same = link.rank in near
        sends, receives = plan.pieces(link.sends), plan.pieces(link.receives)
        nbytes = sum(n for n, _ in sends)
        pack = sum(system.pack(*piece) for piece in sends)
        packed = (
            pack + sum(system.unpack(*piece) for piece in receives) + system.message(nbytes, same)
        )
        rows = sum(n / row for n, row in sends)
        costs["datatype"] += system.datatype(nbytes, int(nbytes / rows), same) if rows else 0.0
        costs["packed"] += packed
        costs["neighbor"] += 1.2 * packed  # the same bytes, and more to do inside MPI
        costs["shared"] += (
            pack + sum(system.shared(*piece) for piece in receives) if same else packed
        )
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
