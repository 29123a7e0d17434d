"""What has been received: of each simulation its first steps, each exactly once."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from hpckit.errors import HpckitError


class Ledger:
    """How many steps of each simulation have come, which they do in their order.

    Whole simulations are kept as ranges, of which there are few: they are begun in their order.

    steps : of a simulation
    stride : between the numbers of simulations that mostly come, as of 2 trainers
    """

    def __init__(self, steps: int, stride: int = 1) -> None:
        self.steps = steps
        self.open: dict[int, int] = {}  # simulations that are begun to how many steps have come
        self.total = 0  # steps that have come
        self._stride = stride
        self._whole: list[list[int]] = []  # simulation % stride, first and last // stride; sorted

    def received(self, simulation: int) -> int:
        """How many of its steps have come."""
        return self.open.get(simulation) or (self.steps if self.is_whole(simulation) else 0)

    def is_whole(self, simulation: int) -> bool:
        """Whether all of its steps have come."""
        residue, number = self._key(simulation)
        at = self._place(residue, number)
        return at > 0 and self._whole[at - 1][0] == residue and number <= self._whole[at - 1][2]

    def take(self, simulation: int, step: int) -> None:
        """Note that this step has come; raises `HpckitError` where it is not the next one."""
        expected = self.received(simulation)
        if step != expected:
            what = f"step {expected} is the next" if expected < self.steps else "it is whole"
            raise HpckitError(f"step {step} of simulation {simulation} came, but {what}")
        self.total += 1
        if step + 1 < self.steps:
            self.open[simulation] = step + 1
        else:
            self.open.pop(simulation, None)
            self._add(simulation)

    def know(self, simulation: int) -> None:
        """Note that all steps of it had come before, and none is open."""
        self.total += self.steps
        self._add(simulation)

    @property
    def whole(self) -> int:
        """How many simulations are whole."""
        return sum(last - first + 1 for _, first, last in self._whole)

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"whole": [list(each) for each in self._whole], "open": list(self.open.items())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._whole = [list(each) for each in state["whole"]]
        self.open = {int(simulation): int(steps) for simulation, steps in state["open"]}
        self.total = self.whole * self.steps + sum(self.open.values())

    def _key(self, simulation: int) -> tuple[int, int]:
        return simulation % self._stride, simulation // self._stride

    def _place(self, residue: int, number: int) -> int:
        """How many ranges begin at it or before it."""
        return bisect_right(self._whole, (residue, number), key=lambda each: (each[0], each[1]))

    def _add(self, simulation: int) -> None:
        residue, number = self._key(simulation)
        at = self._place(residue, number)
        self._whole.insert(at, [residue, number, number])
        for left in (at, at - 1):  # joined to the one after it, and to the one before
            if 0 <= left < len(self._whole) - 1:
                first, second = self._whole[left : left + 2]
                if first[0] == second[0] and first[2] + 1 == second[1]:
                    self._whole[left : left + 2] = [[residue, first[1], second[2]]]
