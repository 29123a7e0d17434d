"""What a buffer is to a trainer; `buffers` has all that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np

BINS = 64  # of the histogram of reuse; the last is for all samples drawn that often, or more

Columns = Mapping[str, tuple[tuple[int, ...], Any]]  # name to shape and dtype of a row's entry
Leaves = Callable[[Mapping[str, np.ndarray], np.ndarray], None]
State = tuple[dict[str, np.ndarray], dict[str, Any]]


class Buffer(Protocol):
    """What the trainer asks of a buffer; one without `bind` is a description only.

    columns : name to array (capacity, ...) of the samples' rows
    population : samples that are there; unseen : of these, the ones that were never drawn
    received, drawn : samples so far, how often one was drawn
    reuse : (BINS,) int64, how many of the samples received were drawn 0, 1, 2, ... times so far
    finished : no more samples will come
    """

    capacity: int
    threshold: int
    columns: dict[str, np.ndarray]
    population: int
    received: int
    drawn: int
    reuse: np.ndarray
    finished: bool

    @property
    def unseen(self) -> int: ...

    def bind(
        self, columns: Columns, random: np.random.Generator, leaves: Leaves | None = None
    ) -> Self:
        """An empty buffer for such rows; `leaves(columns, rows)` is told which rows leave."""
        ...

    def accepts(self) -> bool:
        """Whether there is room for a sample; else it has to wait until some were drawn."""
        ...

    def put(self, row: Mapping[str, Any]) -> None:
        """Take a sample, a value for each column; `HpckitError` where it does not accept."""
        ...

    def ready(self, n: int) -> bool:
        """Whether a batch of n can be drawn."""
        ...

    def draw(self, n: int, out: Mapping[str, np.ndarray]) -> int:
        """Copy a batch into the first rows of `out`; how many: n, or 0 where it is not `ready`.

        At the end, when no more samples come, what is left may be fewer than n.
        """
        ...

    def finish(self) -> None:
        """No more samples will come: what is there is drawn without waiting for a mixture."""
        ...

    def state(self) -> State:
        """Arrays, not copied, and JSON, from which `restore` makes the same buffer, bit for bit."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Take over a state, and its arrays; `ConfigError` where it is of another buffer."""
        ...
