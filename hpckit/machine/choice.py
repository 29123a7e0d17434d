"""What `auto` takes: the model names the likely best, real calls race them, the fastest stays.

No candidate is good everywhere: each loses several times somewhere (docs/halo.md,
docs/collectives.md). All give the same result, so a race costs nothing but the time of the slower
ones, a few times.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence

from mpi4py import MPI

from hpckit.errors import HpckitError
from hpckit.log import get_logger
from hpckit.machine.race import Race

_LOOK = 64  # calls from one look at what they cost to the next
_SLOWER = 2.0  # times what the race measured: the machine is no longer what it was
_SHORT = 5e-5  # seconds: shorter calls are not watched, it would take too large a part of them

_LOG = get_logger(__name__)


class Choice:
    """Among candidates that do the same (constructing, and `next`, are collective).

    comm : the ranks that decide together, on numbers that all of them share, the slowest rank's
    predicted : seconds by the model, the same on all ranks
    names : the candidates, the likely best; they race in this order
    known, key : what was chosen, for those who come later: `known[key]`
    turn, least : of the race, see `Race`
    make : makes a candidate ready, at the latest when it must race. One that raises `HpckitError`,
        on all ranks, is left out
    fallback : made where all are left out
    meet : called before the ranks agree on something: MPI's collectives know no deadline

    current : the one to take for the call that `next` began, and for all calls while `over`

    ::

        choice = Choice(comm, {"slow": 2e-3, "fast": 1e-3}, ["fast", "slow"])
        while not choice.over:
            choice.next()
            began = time.perf_counter()
            ...  # do it by `choice.current`
            choice.tell(time.perf_counter() - began)
        print(choice.explain("method"))
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        predicted: Mapping[str, float],
        names: Sequence[str],
        *,
        known: MutableMapping[Hashable, str] | None = None,
        key: Hashable = None,
        turn: int = 5,
        least: int = 3,
        make: Callable[[str], object] | None = None,
        fallback: str | None = None,
        meet: Callable[[], object] | None = None,
    ) -> None:
        self.predicted = predicted
        self.names = list(names)
        self._comm = comm
        self._known = {} if known is None else known
        self._key = key
        self._make = make
        self._fallback = fallback
        self._meet = meet
        self._made: dict[str, None] = {}  # in order
        winner = self._known.get(key)
        self._make_ready([winner] if winner in self.names else self.names)
        if winner not in self._made:
            winner = None
            self.names = [*self._made]
        self._race = Race(comm, self.names, turn=turn, least=least, known=winner)
        self._expected = self._fastest = math.inf
        self._calls = 0  # since the choice

    @property
    def current(self) -> str:
        return self._race.current

    @property
    def over(self) -> bool:
        """Whether `current` stays for a while."""
        return self._race.over

    @property
    def winner(self) -> str | None:
        """That of the last race, or of an earlier plan's; None while there was none."""
        return self._race.winner

    @property
    def watching(self) -> bool:
        """Whether it wants to hear of the calls."""
        return not self.over or self._expected > _SHORT

    @property
    def rest(self) -> int | None:
        """Calls until the next race, where it does not hear of them; None: there is none."""
        return self._race.rest

    def countdown(self) -> Callable[[], bool]:
        """False for `rest` calls, then true: for those who tell nothing while it is over."""
        waits = itertools.repeat(False) if self.rest is None else itertools.repeat(False, self.rest)
        return itertools.chain(waits, itertools.repeat(True)).__next__  # counts in C

    def next(self) -> bool:
        """A call begins: whether `current` or `over` changed (collective now and then)."""
        was = self.current, self.over
        if self.over:
            if self._calls == self.rest:
                self.again()
            elif self._calls % _LOOK == 0 and self._calls:
                self._look()
            self._calls += 1
        if not self.over:
            if self._meet:
                self._meet()
            self._race.next()
            if self.over:
                self._settle()
        return was != (self.current, self.over)

    def tell(self, seconds: float) -> None:
        """What the call took on this rank."""
        if not self.over:
            self._race.tell(seconds)
        elif seconds < self._fastest:
            self._fastest = seconds

    def again(self) -> None:
        """All candidates run once more, from the next call on."""
        if self._make:
            if self._meet:
                self._meet()
            self._make_ready(self.names)
        self._race.again(self.names)

    def explain(self, what: str) -> str:
        """The predicted and measured time of each, as a table; `what` they are, as its head."""
        lines = [f"{what:<20}{'predicted':>12}{'measured':>12}   (us, slowest rank)"]
        names = {*self.predicted, *self.names}
        for name in sorted(names, key=lambda name: self.predicted.get(name, 0.0)):
            times = [table.get(name, math.nan) for table in (self.predicted, self._race.measured)]
            text = "".join(f"{'-':>12}" if math.isnan(t) else f"{1e6 * t:12.1f}" for t in times)
            lines.append(f"{name:<20}{text}{'   chosen' if name == self.winner else ''}")
        return "\n".join(lines)

    def _make_ready(self, names: Sequence[str]) -> None:
        """Make those that were not yet; one that cannot be, on all ranks, is left out."""
        for name in names:
            if name not in self._made:
                try:
                    if self._make:
                        self._make(name)
                    self._made[name] = None
                except HpckitError as error:
                    _LOG.warning("%s is left out: %s", name, error)
                    self.names = [each for each in self.names if each != name]
        if not self._made and self._make and self._fallback:
            self._make(self._fallback)
            self._made[self._fallback] = None

    def _settle(self) -> None:
        self._known[self._key] = self.current
        self._expected, self._fastest = self._race.measured[self.current], math.inf
        self._calls = 1

    def _look(self) -> None:
        """Race anew where even the fastest of many calls took far longer than it should."""
        if not self.watching:
            return
        fastest, self._fastest = self._comm.allreduce(self._fastest, MPI.MAX), math.inf
        if _SLOWER * self._expected < fastest < math.inf and len(self.names) > 1:
            if self._comm.rank == 0:
                _LOG.warning(
                    "%s takes %.3g s instead of %.3g s: choosing again",
                    self.current,
                    fastest,
                    self._expected,
                )
            self._race.again(forget=True)
        self._expected = min(self._expected, fastest)
