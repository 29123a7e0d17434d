"""Where samples wait to be trained on, and in which mixture they are drawn.

| buffer | a new sample | is drawn | leaves |
| --- | --- | --- | --- |
| `FIFO` | waits while it is full | oldest first | when drawn |
| `FIRO` | waits while it is full | at random, from more than `threshold` | when drawn |
| `Reservoir` | takes a random seen one's place; waits while there is none | as FIRO | for it |
| `Epochs` | is kept | in shuffled order, once per epoch | never |

No sample is lost before it was drawn once: a full buffer does not accept, and who solves waits
(Meyer, Schouler, Caulk, Ribes, Raffin: High Throughput Training of Deep Surrogates from Large
Ensemble Runs, SC23, section 3). A batch is drawn as a whole, so that no sample is in it twice.

Rows never move. `_order` lists them, what is there first: a draw takes positions of it, and `_swap`
brings these to where they are out of the way.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.buffer import BINS, Columns, Leaves, State

_FIRST = 1024  # rows of `Epochs`, until there are more


class _Rows:
    """What all buffers share: rows in columns, counts, and a state."""

    columns: dict[str, np.ndarray]
    _random: np.random.Generator
    _leaves: Leaves
    _order: np.ndarray
    _uses: np.ndarray
    reuse: np.ndarray
    _facts = ("population", "received", "drawn", "finished")

    def __init__(self, capacity: int, threshold: int = 0) -> None:
        name = type(self).__name__
        self.capacity = _whole(f"{name}'s capacity", capacity, 1)
        self.threshold = _whole(f"{name}'s threshold", threshold, 0)
        if self.threshold >= self.capacity:
            raise ConfigError(
                f"{name}'s threshold {threshold} must be below its capacity {capacity}: samples "
                "are drawn when more than that are there"
            )
        self.population = 0
        self.received = 0
        self.drawn = 0
        self.finished = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.capacity}, threshold={self.threshold})"

    @property
    def unseen(self) -> int:
        return int(self.reuse[0])

    def bind(
        self, columns: Columns, random: np.random.Generator, leaves: Leaves | None = None
    ) -> Self:
        bound = copy.copy(self)
        n = self.capacity
        bound.columns = {k: np.empty((n, *shape), dtype) for k, (shape, dtype) in columns.items()}
        bound._random = random
        bound._leaves = leaves or (lambda columns, rows: None)
        bound._order = np.arange(n)
        bound._uses = np.zeros(n, np.int32)
        bound.reuse = np.zeros(BINS, np.int64)
        return bound

    def accepts(self) -> bool:
        return self.population < self.capacity and not self.finished

    def put(self, row: Mapping[str, Any]) -> None:
        if not self.accepts():
            why = "has finished" if self.finished else "is full of samples that were never drawn"
            raise HpckitError(f"the buffer {self} {why}: ask `accepts` before `put`")
        at = self._place()
        for name, column in self.columns.items():
            column[at] = row[name]
        self._uses[at] = 0
        self.reuse[0] += 1
        self.received += 1

    def ready(self, n: int) -> bool:
        if self.finished:
            return self.population > 0
        return self.population > self.threshold and self.population >= n

    def draw(self, n: int, out: Mapping[str, np.ndarray]) -> int:
        if not self.ready(n):
            return 0
        rows = self._choose(min(n, self.population))
        for name, column in self.columns.items():  # mode: "raise" would copy through a buffer
            np.take(column, rows, axis=0, out=out[name][: len(rows)], mode="clip")
        uses = self._uses[rows]
        self._uses[rows] = uses + 1
        self.reuse += _histogram(uses + 1) - _histogram(uses)
        self.drawn += len(rows)
        if self._removes():
            self.population -= len(rows)
            self._leaves(self.columns, rows)
        return len(rows)

    def finish(self) -> None:
        self.finished = True

    def state(self) -> State:
        arrays = {"order": self._order, "uses": self._uses, "reuse": self.reuse}
        arrays |= {_COLUMN + name: column for name, column in self.columns.items()}
        facts = {name: getattr(self, name) for name in self._facts}
        return arrays, facts | {"random": self._random.bit_generator.state}

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        arrays = {name: arrays[name] for name in self.state()[0]}
        self._check(arrays)
        self._order, self._uses, self.reuse = (arrays.pop(k) for k in ("order", "uses", "reuse"))
        self.columns = {name.removeprefix(_COLUMN): column for name, column in arrays.items()}
        for name in self._facts:
            setattr(self, name, facts[name])
        self._random.bit_generator.state = facts["random"]

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, own in self.state()[0].items():
            if (given := arrays[name]).shape != own.shape or given.dtype != own.dtype:
                raise ConfigError(
                    f"{name!r} of the saved buffer is {given.dtype} {given.shape}, that of "
                    f"{self} {own.dtype} {own.shape}: go on with the buffer that was saved"
                )

    def _place(self) -> int:
        """The row of the next sample."""
        raise NotImplementedError

    def _choose(self, n: int) -> np.ndarray:
        """The rows of the next n."""
        raise NotImplementedError

    def _removes(self) -> bool:
        """Whether what is drawn leaves."""
        return True


class FIFO(_Rows):
    """First in, first out: each sample is drawn once, in the order in which they came.

    ::

        buffer = FIFO(1000)
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)

    def _place(self) -> int:
        self.population += 1
        return self.received % self.capacity

    def _choose(self, n: int) -> np.ndarray:
        return np.arange(self.drawn, self.drawn + n) % self.capacity


class FIRO(_Rows):
    """First in, random out: each sample is drawn once, at random from more than `threshold`.

    ::

        buffer = FIRO(6000, threshold=1000)
    """

    def __init__(self, capacity: int, threshold: int) -> None:
        super().__init__(capacity, threshold)

    def _place(self) -> int:
        self.population += 1
        return self._order[self.population - 1]

    def _choose(self, n: int) -> np.ndarray:
        positions = self._random.choice(self.population, n, replace=False, shuffle=False)
        return _swap(self._order, positions, self.population - n)


class Reservoir(_Rows):
    """Keeps samples to draw them again, until new ones take the places of random seen ones.

    ::

        buffer = Reservoir(6000, threshold=1000)

    In `_order` the unseen are first, then the seen, then free rows. When no more samples come,
    what is drawn leaves, as in FIRO.
    """

    def __init__(self, capacity: int, threshold: int) -> None:
        super().__init__(capacity, threshold)

    def accepts(self) -> bool:
        return self.unseen < self.capacity and not self.finished

    def _place(self) -> int:
        order, border, chosen = self._order, self.unseen, self.population
        if full := self.population == self.capacity:
            chosen = self._random.integers(border, self.capacity)
        else:
            self.population += 1
        row = order[chosen]
        order[chosen] = order[border]
        order[border] = row
        if full:
            self._leaves(self.columns, order[border : border + 1])
        return row

    def _choose(self, n: int) -> np.ndarray:
        positions = self._random.choice(self.population, n, replace=False, shuffle=False)
        if self._removes():
            return _swap(self._order, positions, self.population - n)
        rows = self._order[positions]
        fresh = positions[positions < self.unseen]
        _swap(self._order, fresh, self.unseen - len(fresh))
        return rows

    def _removes(self) -> bool:
        return self.finished


class Epochs(_Rows):
    """A set that is whole before it is trained on, drawn in a new shuffled order in each epoch.

    ::

        buffer = Epochs()

    It takes as many samples as come. What is left of an epoch and no whole batch is left out: the
    next epoch has another order.
    """

    _facts = (*_Rows._facts, "_next")

    def __init__(self) -> None:
        super().__init__(_FIRST)
        self._next = 0  # in `_order`

    def __repr__(self) -> str:
        return "Epochs()"

    def accepts(self) -> bool:
        return not self.finished

    def ready(self, n: int) -> bool:
        return self.finished and self.population > 0

    def finish(self) -> None:
        super().finish()
        self._next = self.population

    def _place(self) -> int:
        if self.population == self.capacity:
            self._grow()
        self.population += 1
        return self.population - 1

    def _choose(self, n: int) -> np.ndarray:
        if self._next + n > self.population:
            self._random.shuffle(self._order[: self.population])
            self._next = 0
        self._next += n
        return self._order[self._next - n : self._next]

    def _removes(self) -> bool:
        return False

    def _grow(self) -> None:
        self.capacity *= 2
        self.columns = {name: _doubled(column) for name, column in self.columns.items()}
        self._uses = _doubled(self._uses)
        self._order = np.arange(self.capacity)

    def _check(self, arrays: Mapping[str, np.ndarray]) -> None:
        while self.capacity < len(arrays["order"]):
            self._grow()
        super()._check(arrays)


_COLUMN = "column "  # before the names of columns, in a state


def _whole(what: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ConfigError(f"{what} {value!r} must be a whole number, at least {least}")
    return number


def _histogram(uses: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(uses, BINS - 1), minlength=BINS)


def _doubled(array: np.ndarray) -> np.ndarray:
    grown = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _swap(order: np.ndarray, positions: np.ndarray, start: int) -> np.ndarray:
    """Bring what is at these positions to `start` and after, what was there to their places."""
    chosen = order[positions]
    stop = start + len(positions)
    inside = (positions >= start) & (positions < stop)
    stays = np.ones(len(positions), bool)
    stays[positions[inside] - start] = False
    order[positions[~inside]] = order[start:stop][stays]
    order[start:stop] = chosen
    return chosen
