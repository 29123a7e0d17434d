"""The choice of an algorithm: the links' model names the likely best, calls now and then race them,
the fastest stays.

MPI's own allreduce always runs in the race, so that the choice is never worse than that for long.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.collectives.cost import predict
from hpckit.log import get_logger
from hpckit.machine.links import Links
from hpckit.machine.race import Race

_RACERS = 3  # beside MPI's own
_LOOK = 64  # calls from one look at what they cost to the next
_SLOWER = 2.0  # times what the race measured: the machine is no longer what it was
_SHORT = 5e-5  # seconds: shorter calls are not watched, it would take too large a part of them

_LOG = get_logger(__name__)


class Choice:
    """Among the algorithms `allowed` for a plan (constructing, and `next`, are collective).

    key : what plans have in common that may share a choice
    way : the algorithm to use next, the one chosen when `over`
    """

    def __init__(
        self, channel: Channel, nbytes: int, key: Hashable, allowed: Iterable[str]
    ) -> None:
        if channel.links is None:
            channel.links = Links.load_or_measure(
                channel.comm, channel.comm.allgather(channel.node.ranks[0])
            )
        self._channel, self._key = channel, key
        self.predicted = {
            name: cost for name, cost in predict(channel.links, nbytes).items() if name in allowed
        }
        self.names = _candidates(channel, self.predicted, allowed)
        self._race = Race(channel.comm, self.names, turn=3, least=2, known=channel.choices.get(key))
        self._expected = self._fastest = math.inf
        self._calls = 0  # since the choice

    @property
    def way(self) -> str:
        return self._race.way

    @property
    def over(self) -> bool:
        """Whether `way` stays for a while."""
        return self._race.over

    @property
    def winner(self) -> str | None:
        """The algorithm of the last race; None while there was none."""
        return self._race.winner

    @property
    def watching(self) -> bool:
        """Whether it wants to hear of the calls."""
        return not self.over or self._expected > _SHORT

    @property
    def rest(self) -> int | None:
        """Calls until the next race, where it does not hear of them; None: there is none."""
        return self._race.rest

    def next(self) -> bool:
        """A call begins: whether `way` or `over` changed (collective now and then)."""
        was = self.way, self.over
        if self.over:
            if self._calls == self.rest:
                self.again()
            elif self._calls % _LOOK == 0 and self._calls:
                self._look()
            self._calls += 1
        if not self.over:
            self._race.next()
            if self.over:
                self._settle()
        return was != (self.way, self.over)

    def tell(self, seconds: float) -> None:
        """What the call took on this rank."""
        if not self.over:
            self._race.tell(seconds)
        elif seconds < self._fastest:
            self._fastest = seconds

    def again(self) -> None:
        """All algorithms run once more, from the next call on."""
        self._race.again()

    def _settle(self) -> None:
        self._channel.choices[self._key] = self.way
        self._expected, self._fastest = self._race.measured[self.way], math.inf
        self._calls = 1

    def _look(self) -> None:
        """Race anew where even the fastest of many calls took far longer than it should."""
        if not self.watching:
            return
        fastest, self._fastest = self._channel.comm.allreduce(self._fastest, MPI.MAX), math.inf
        if _SLOWER * self._expected < fastest < math.inf and len(self.names) > 1:
            if self._channel.rank == 0:
                _LOG.warning(
                    "%s takes %.3g s instead of %.3g s: choosing again",
                    self.way,
                    fastest,
                    self._expected,
                )
            self._race.again(forget=True)
        self._expected = min(self._expected, fastest)

    def explain(self) -> str:
        """The model, and the predicted and measured time of each algorithm."""
        lines = [
            str(self._channel.links),
            f"{'algorithm':<20}{'predicted':>12}{'measured':>12}   (us, slowest rank)",
        ]
        names = sorted(
            {*self.predicted, *self.names}, key=lambda name: self.predicted.get(name, 0.0)
        )
        for name in names:
            times = [table.get(name, math.nan) for table in (self.predicted, self._race.measured)]
            text = "".join(f"{'-':>12}" if math.isnan(t) else f"{1e6 * t:12.1f}" for t in times)
            lines.append(f"{name:<20}{text}{'   chosen' if name == self.winner else ''}")
        return "\n".join(lines)


def _candidates(channel: Channel, predicted: dict[str, float], allowed: Iterable[str]) -> list[str]:
    """MPI's own, and the likely best of the others; memory beats messages on one node, so few of
    those run there.
    """
    ranking = sorted(predicted, key=predicted.__getitem__)
    likely = ["shared", *ranking[:1]] if channel.one_node else ranking[:_RACERS]
    return (
        ["native", *(name for name in likely if name in allowed)]
        if channel.size > 1
        else ["native"]
    )


def in_windows(channel: Channel, *arrays: np.ndarray) -> bool:
    """Whether all ranks' arrays lie in windows of their nodes (collective)."""
    inside = all([channel.node.rows(array) is not None for array in arrays])  # noqa: C419  (collective each)
    return channel.comm.allreduce(inside, MPI.LAND)
