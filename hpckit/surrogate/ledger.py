"""What has been received: of each simulation its first steps, each exactly once."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from hpckit.errors import HpckitError


class Progress:
    """How many steps of each simulation have come, which they do in their order.

    Whole simulations are kept as ranges, of which there are few: they are begun in their order.

    steps : of a simulation
    stride : between the numbers of a trainer's simulations, as of trainer 1 of 2 (1, 3, 5, …)
    """

    def __init__(self, steps: int, stride: int = 1) -> None:
        self.steps = steps
        self.open: dict[int, int] = {}  # simulations that are begun to how many steps have come
        self.total = 0  # steps that have come
        self._stride = stride
        self._whole: list[list[int]] = []  # first and last of each range, sorted

    def received(self, simulation: int) -> int:
        """How many of its steps have come."""
        return self.steps if self.is_whole(simulation) else self.open.get(simulation, 0)

    def is_whole(self, simulation: int) -> bool:
        """Whether all of its steps have come."""
        at = self._place(simulation)
        if at == 0:
            return False
        first, last = self._whole[at - 1]
        return simulation <= last and (simulation - first) % self._stride == 0

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

    @property
    def whole(self) -> int:
        """How many simulations are whole."""
        return sum((last - first) // self._stride + 1 for first, last in self._whole)

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"whole": [list(each) for each in self._whole], "open": list(self.open.items())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._whole = [list(each) for each in state["whole"]]
        self.open = {int(simulation): int(steps) for simulation, steps in state["open"]}
        self.total = self.whole * self.steps + sum(self.open.values())

    def _place(self, simulation: int) -> int:
        """How many ranges begin at it or before it."""
        return bisect_right(self._whole, simulation, key=lambda each: each[0])

    def _add(self, simulation: int) -> None:
        at = self._place(simulation)
        self._whole.insert(at, [simulation, simulation])
        for left in (at, at - 1):  # joined to the one after it, and to the one before
            if 0 <= left < len(self._whole) - 1:
                first, second = self._whole[left : left + 2]
                if first[1] + self._stride == second[0]:
                    self._whole[left : left + 2] = [[first[0], second[1]]]
