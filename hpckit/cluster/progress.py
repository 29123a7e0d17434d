"""Where a search is: what a monitor may look at, and what it needs to go on on any ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpckit.cluster import inputs
from hpckit.cluster.state import State
from hpckit.cluster.tables import SWAP
from hpckit.errors import ConfigError

_SLOW = 2  # ranks agree again after one in so many of the blocks judged in vain since the last swap
_AGREEMENTS = 16  # at least that many in a pass
Monitor = Callable[["Progress"], object]


class Progress:
    """A search under way, the same on all ranks.

    block : candidates judged together; blocks : how many of them are a pass over all candidates
    visited : blocks since the start; quiet : how many of the last ones offered no swap
    max_neighbors : how many candidates in a row may offer none before the search ends; None: all

    ::

        def monitor(progress):
            if progress.n_swap > 100:
                kept.update(progress.snapshot())  # for fasterpam(..., resume=kept)

        kept = {}
        found = fasterpam(points, 20, metric="euclidean", monitor=monitor, random_state=1)
    """

    def __init__(
        self,
        state: State,
        block: int,
        limit: float = math.inf,
        monitor: Monitor | None = None,
        resume: Mapping[str, Any] | None = None,
        max_neighbors: int | None = None,
    ) -> None:
        self.block = int(block)  # unsigned ones of NumPy cannot be negated
        self.blocks = -(-state.distances.candidates // self.block)
        self._most_quiet = state.distances.candidates if max_neighbors is None else max_neighbors
        self.visited = self.quiet = 0
        self._state = state
        self._limit = limit
        self._monitor = monitor
        state.ranks.same("whether there is a monitor", monitor is not None)
        if resume is not None:
            self._resume(resume)

    @property
    def passes(self) -> int:
        """Passes over all candidates, the present one included."""
        return -(-self.visited // self.blocks)

    @property
    def position(self) -> int:
        """How many candidates the present pass has judged."""
        return min(
            ((self.visited - 1) % self.blocks + 1) * self.block, self._state.distances.candidates
        )

    @property
    def n_swap(self) -> int:
        """Swaps done."""
        return len(self._state.swaps)

    @property
    def loss(self) -> float:
        """The loss now, in units of the data."""
        return self._state.true_loss

    @property
    def found_nothing(self) -> bool:
        """Whether the last candidates, all or as many as `max_neighbors`, offered no swap."""
        return self.quiet * self.block >= self._most_quiet

    @property
    def goes_on(self) -> bool:
        """Whether there is a block to visit."""
        return not self.found_nothing and self.visited < self._limit * self.blocks

    @property
    def ahead(self) -> int:
        """Blocks to judge before ranks agree: the more, the longer none has offered a swap."""
        if self.quiet < _SLOW:
            return 1
        left = min(
            -(-self._most_quiet // self.block) - self.quiet,
            self._limit * self.blocks - self.visited,
        )
        return int(min(self.quiet // _SLOW, 1 + self.blocks // _AGREEMENTS, left))

    def step(self, blocks: int, *, swapped: bool) -> None:
        """So many blocks more have been visited, and offered a swap or not."""
        if self._monitor is None:
            self._go(blocks, swapped)
        elif blocks:
            with self._state.ranks.together():
                for _ in range(blocks):
                    self._go(1, swapped)
                    self._monitor(self)

    def _go(self, blocks: int, swapped: bool) -> None:
        self.visited += blocks
        self.quiet = 0 if swapped else self.quiet + blocks

    def snapshot(self) -> dict[str, Any]:
        """What `resume=` takes: plain numbers, and the arrays medoids (k,) and trace (n_swap,)."""
        plain = {
            "block": self.block,
            "visited": self.visited,
            "quiet": self.quiet,
            "loss": self.loss,
        }
        return plain | {"medoids": self._state.medoids.copy(), "trace": self._state.trace}

    def _resume(self, snapshot: Mapping[str, Any]) -> None:
        was, now = (snapshot["block"], snapshot["loss"]), (self.block, self.loss)
        if was != now:
            raise ConfigError(
                f"resume is from a search by blocks of {was[0]} at loss {was[1]}, but here are "
                f"blocks of {now[0]}, and"
                f" its medoids have loss {now[1]}: resume with the data and the arguments of the "
                "run that stopped"
            )
        self.visited, self.quiet = int(snapshot["visited"]), int(snapshot["quiet"])
        self._state.swaps.extend(np.asarray(snapshot["trace"], SWAP).tolist())


def resumed_medoids(problem: inputs.Problem, snapshot: Mapping[str, Any]) -> np.ndarray:
    """The medoids to go on with, (k,) int64 (collective).

    Raises `ConfigError` on all ranks where they do not fit.
    """
    with problem.ranks.together():
        missing = {"block", "visited", "quiet", "loss", "medoids", "trace"} - set(snapshot)
        if missing:
            raise ConfigError(
                f"resume lacks {', '.join(sorted(missing))}: pass what Progress.snapshot() returned"
            )
        found = inputs.indices(snapshot["medoids"], "the medoids of resume", problem.n, problem.k)
    problem.ranks.same(
        "resume", (found.tolist(), snapshot["visited"], snapshot["quiet"], snapshot["loss"])
    )
    return found
