"""What a trainer has its lanes solve next, and with which parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.errors import ConfigError
from hpckit.surrogate.rotation import NEVER, Rotation

if TYPE_CHECKING:
    from hpckit.surrogate.space import Box, Sampler


State = Sequence[tuple[int, int, Sequence[float]]]  # of an assigner: number, lane and parameters


class Assignment(NamedTuple):
    """A simulation for a lane.

    first : the first step to give: those before it came before a restart
    cycle : the cycle in which the lane gives that step; NEVER: the lane has nothing more to give
    """

    lane: int
    simulation: int
    first: int
    cycle: int
    parameters: np.ndarray


class _Open(NamedTuple):
    """A simulation that is assigned."""

    lane: int
    parameters: np.ndarray


class Assigner:
    """A trainer's: says what its lanes solve next.

    received : how many steps of a simulation have come, before a restart
    in_order : whether simulations are in the lanes of the rotation, else in whichever is free
    ahead : what `state` said before a restart

    One simulation is assigned ahead, when the first step of the one before it is taken, so that no
    lane waits. Parameters are drawn then, in lockstep after a fixed gradient step: also a sampler
    that learns gives the same ones on any number of ranks.
    """

    def __init__(
        self,
        box: Box,
        sampler: Sampler,
        rotation: Rotation,
        lanes: Sequence[int],
        received: Callable[[int], int],
        in_order: bool = True,
        ahead: State | None = None,
    ) -> None:
        self._box = box
        self._sampler = sampler
        self._rotation = rotation
        self.received = received
        self._ahead = {simulation: _Open(lane, np.array(p)) for simulation, lane, p in ahead or ()}
        self._phases = self._in_order(lanes) if in_order else self._as_they_end(lanes)
        self._says_when_none_is_left = in_order  # or the others would wait for the lane's turn
        self._next: Mapping[int, Iterator[int]] = {}  # of each lane
        self._begun: set[int] = set()
        self.open: dict[int, _Open] = {}  # what is assigned and not yet whole

    def begin(self) -> list[Assignment]:
        """The first assignment of each lane; none once all is solved."""
        given: list[Assignment] = []
        while self._phases and not self.open:
            self._next = self._phases.pop(0)
            for lane in self._next:
                given += self._assign(lane)
        return given

    def took(self, lane: int, simulation: int, step: int) -> list[Assignment]:
        """What to assign now that this step of it was taken."""
        given: list[Assignment] = []
        if simulation not in self._begun:
            self._begun.add(simulation)
            given += self._assign(lane)
        if step + 1 == self._rotation.steps:
            self._begun.remove(simulation)
            del self.open[simulation]
            given += self.begin()
        return given

    def state(self) -> State:
        """What is assigned and not yet whole, as JSON: its number, lane and parameters."""
        both = self._ahead | self.open
        return [
            (simulation, each.lane, each.parameters.tolist()) for simulation, each in both.items()
        ]

    def _in_order(self, lanes: Sequence[int]) -> list[Mapping[int, Iterator[int]]]:
        return [{lane: self._left(self._rotation.simulations_of(lane)) for lane in lanes}]

    def _as_they_end(self, lanes: Sequence[int]) -> list[Mapping[int, Iterator[int]]]:
        """Validation comes first, all of it; the lanes share what there is."""
        trainers = self._rotation.lanes // len(lanes)
        mine = self._rotation._replace(lanes=trainers)  # as if a trainer had one lane, its first
        kept = dict(self._ahead)  # in the lanes that they were in: views go by lanes
        new = (each for each in self._left(mine.training_of(lanes[0])) if each not in kept)
        own = {lane: [each for each in kept if kept[each].lane == lane] for lane in lanes}
        training = {lane: chain(own[lane], new) for lane in lanes}
        return [dict.fromkeys(lanes, self._left(mine.validation_of(lanes[0]))), training]

    def _left(self, simulations: Iterable[int]) -> Iterator[int]:
        """Those that are not whole."""
        steps = self._rotation.steps
        return (each for each in simulations if self.received(each) < steps)

    def _assign(self, lane: int) -> list[Assignment]:
        simulation = next(self._next[lane], None)
        if simulation is None:
            none_left = Assignment(lane, 0, 0, NEVER, np.zeros(self._box.size))
            return [none_left] * self._says_when_none_is_left
        known = self._ahead.pop(simulation, None)
        parameters = self._draw(simulation) if known is None else known.parameters
        self.open[simulation] = _Open(lane, parameters)
        first = self.received(simulation)
        cycle = self._rotation.cycle(simulation) + first
        return [Assignment(lane, simulation, first, cycle, parameters)]

    def _draw(self, simulation: int) -> np.ndarray:
        """Its parameters; `ConfigError` where a sampler leaves the box."""
        sampler = self._sampler
        drawn = sampler.validation(-1 - simulation) if simulation < 0 else sampler.draw(simulation)
        parameters = np.asarray(drawn, np.float64)
        if parameters.shape != (self._box.size,):
            raise ConfigError(
                f"the sampler gave simulation {simulation} parameters of shape"
                f" {parameters.shape}, it needs ({self._box.size},)"
            )
        if outside := self._box.outside(parameters):
            raise ConfigError(f"the sampler left the box in simulation {simulation}: {outside}")
        return parameters
