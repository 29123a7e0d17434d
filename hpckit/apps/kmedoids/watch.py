"""What `hpckit.apps.kmedoids` does between the steps of a search: say how far it is, save it, stop
it in time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.errors import Checkpointed, ConfigError, together
from hpckit.io.checkpoint import Checkpoint
from hpckit.log import PATIENCE
from hpckit.program.stop import StopSignal
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.cluster import Progress as Search

_PAUSE = 0.5  # seconds between two meetings of all ranks


class Watch:
    """The monitor of a search; every method is collective.

    A search is in the same state on all ranks: rank 0 saves it for all, and any number of ranks
    goes on with it.

    identity : what a checkpoint must have in common with this run, as JSON
    every : seconds between checkpoints; 0: only when the run is asked to stop
    until : when to stop at the latest, in seconds of `time.monotonic`
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        stop: StopSignal,
        folder: Path,
        identity: Mapping[str, object],
        every: float = 0.0,
        until: float = math.inf,
    ) -> None:
        self.candidates, self.seconds = (
            0,
            0.0,
        )  # judged after the first block of this run, each counted once a pass
        self._comm, self._identity, self._stop = comm, identity, stop
        self._every, self._until = every or math.inf, until
        self._saved = self._met = self._told = time.monotonic()
        self._first: float | None = None  # when the first block was judged
        self._since = self._pace = 0  # blocks since the last meeting, and until the next
        with together(comm):
            if comm.rank == 0:
                self._checkpoint = Checkpoint(
                    folder, Grid(MPI.COMM_SELF, (1,))
                )  # no field lives on it

    def resumed(self) -> dict[str, Any] | None:
        """What the newest good checkpoint says, if there is one: the argument `resume` of a
        search.
        """
        snapshot = None
        with together(self._comm):
            if self._comm.rank == 0 and self._checkpoint.exists():
                snapshot = self._load()
        return self._comm.bcast(snapshot)

    def __call__(self, search: Search) -> None:
        """Look at the clock now and then; raises `Checkpointed` on all ranks when one was asked to
        stop.
        """
        self._count(search.block)
        self._since += 1
        if self._since < self._pace or not search.goes_on:
            return
        now = time.monotonic()
        pace = max(1, int(_PAUSE * self._since / (now - self._met)))
        news = np.array([now > self._until, now > self._saved + self._every, pace])
        self._comm.Allreduce(MPI.IN_PLACE, news, MPI.MAX)
        over, due, self._pace = map(int, news)
        stop = self._stop.requested() or over
        self._tell(search, now)
        if stop or due:
            self._save(search)
        if stop:
            raise Checkpointed(
                f"stopped after {search.n_swap} swaps, in {_place(search)}: run again with --resume"
            )
        self._met, self._since = time.monotonic(), 0

    def _count(self, block: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        else:
            self.candidates, self.seconds = self.candidates + block, now - self._first

    def _tell(self, search: Search, now: float) -> None:
        if self._comm.rank == 0 and now > self._told + PATIENCE:
            self._told = now
            print(f"{_place(search)}, {search.n_swap} swaps, loss {search.loss:.8g}", flush=True)

    def _save(self, search: Search) -> None:
        with span("checkpoint"), together(self._comm):
            if self._comm.rank == 0:
                state = search.snapshot()
                state |= {name: state[name].tolist() for name in ("medoids", "trace")}
                self._checkpoint.save(
                    search.n_swap, 0.0, {}, {"identity": self._identity, "state": state}
                )
        self._saved = time.monotonic()

    def _load(self) -> dict[str, Any]:
        _, _, extra = self._checkpoint.load({})
        if extra["identity"] != self._identity:
            raise ConfigError(
                f"the checkpoints in {self._checkpoint.directory} are of another case, with "
                f"{extra['identity']} instead"
                f" of {self._identity}: choose another --output, or leave out --resume to start "
                "over"
            )
        state = extra["state"]
        return state | {"trace": [tuple(swap) for swap in state["trace"]]}


def _place(search: Search) -> str:
    share = 100 * search.position // (search.block * search.blocks)
    return f"pass {search.passes} ({share} %)"
