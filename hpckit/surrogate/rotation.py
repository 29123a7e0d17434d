"""Whose turn it is: the order of all steps, which depends on no rank and no speed.

Simulation s is in lane s % lanes. Lanes take turns, one step each; a lane goes on with its next
simulation when one has given all its steps. So with two lanes, and two steps in a simulation, the
order is (simulation, step) = (0, 0) (1, 0) (0, 1) (1, 1) (2, 0) (3, 0) (2, 1) …. One turn of all
lanes is a cycle: the order is that of (cycle, lane), and everything here follows from the cycle in
which a simulation gives its first step.

What a trainer or a group sees is this order, less the lanes that it does not have.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from typing import NamedTuple

NEVER = 2**62  # the cycle of a lane that has no more to give


class Turn(NamedTuple):
    """A step in the order of all steps; turns compare as they follow each other."""

    cycle: int
    lane: int
    simulation: int
    step: int


class Rotation(NamedTuple):
    """The order of the steps of a study.

    ::

        order = Rotation(lanes=2, steps=2).turns(range(2))
        next(order)  # Turn(cycle=0, lane=0, simulation=0, step=0)

    lanes : of the study
    steps : of a simulation
    simulations : how many there are; None: endless
    validation : how many simulations come first, for validation: they have the numbers -1, -2, …
    """

    lanes: int
    steps: int
    simulations: int | None = None
    validation: int = 0

    def lane(self, simulation: int) -> int:
        """The lane that it is in."""
        return (simulation if simulation >= 0 else -1 - simulation) % self.lanes

    def cycle(self, simulation: int) -> int:
        """The cycle in which it gives its step 0."""
        if simulation < 0:
            return (-1 - simulation) // self.lanes * self.steps
        before = -(-self.validation // self.lanes)
        return (before + simulation // self.lanes) * self.steps

    def simulations_of(self, lane: int) -> Iterator[int]:
        """The simulations of a lane, in their order."""
        return chain(self.validation_of(lane), self.training_of(lane))

    def validation_of(self, lane: int) -> Iterator[int]:
        """The validation simulations of a lane, which come first."""
        return (-1 - each for each in range(lane, self.validation, self.lanes))

    def training_of(self, lane: int) -> Iterator[int]:
        """The other simulations of a lane."""
        if self.simulations is None:
            return count(lane, self.lanes)
        return iter(range(lane, self.simulations, self.lanes))

    def turns(
        self, lanes: Iterable[int], received: Callable[[int], int] = lambda simulation: 0
    ) -> Iterator[Turn]:
        """The order of these lanes' steps, less the first `received(simulation)` of each."""
        return heapq.merge(*(self._turns_of(lane, received) for lane in lanes))

    def _turns_of(self, lane: int, received: Callable[[int], int]) -> Iterator[Turn]:
        for simulation in self.simulations_of(lane):
            cycle = self.cycle(simulation)
            for step in range(received(simulation), self.steps):
                yield Turn(cycle + step, lane, simulation, step)
