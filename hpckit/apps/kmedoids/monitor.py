"""What happens between the blocks of a search: say how far it is, save it, stop it in time."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.io.checkpoint import Checkpoint
from hpckit.log import INTERVAL
from hpckit.program.loop import Every, Loop, When, check_case
from hpckit.program.stop import StopSignal
from hpckit.trace import span

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.cluster import Progress

_INTERVAL = 0.5  # seconds between two meetings of all ranks


class Monitor:
    """The monitor of a search, which calls it after each block; every method is collective.

    A search is in the same state on all ranks: rank 0 saves it for all, and any number of ranks
    goes on with it.

    identity : what a checkpoint must have in common with this run, as JSON
    every : seconds between checkpoints; 0: only when the run is asked to stop
    until : when to stop at the latest, in seconds of `time.monotonic`
    candidates, seconds : judged after the first block of this run, each counted once a pass, and
        how long it took
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
        self.candidates = 0
        self.seconds = 0.0
        self._comm = comm
        self._identity = identity
        self._search: Progress
        self._began: float | None = None  # when the first block had been judged
        self._told = time.monotonic()
        self._loop = Loop(
            comm,
            [(When(), self._tell), (Every(seconds=every, at_stop=True), self._save)],
            stop=stop,
            stopped=self._stopped,
            until=until,
            interval=_INTERVAL,
        )
        self._checkpoint = Checkpoint(folder, comm)

    def resumed(self) -> dict[str, Any] | None:
        """What the newest good checkpoint says, if there is one: a search's argument `resume`."""
        return self._load() if self._checkpoint.exists() else None

    def __call__(self, search: Progress) -> None:
        """One block more has been judged.

        Raises `Checkpointed` on all ranks when one was asked to stop.
        """
        self._search = search
        self._count(search.block)
        if search.goes_on:
            self._loop.advance()

    def _count(self, block: int) -> None:
        now = time.perf_counter()
        if self._began is None:
            self._began = now
            return
        self.candidates += block
        self.seconds = now - self._began

    def _tell(self) -> None:
        now = time.monotonic()
        if self._comm.rank == 0 and now > self._told + INTERVAL:
            self._told = now
            search = self._search
            print(f"{_place(search)}, {search.n_swap} swaps, loss {search.loss:.8g}", flush=True)

    def _stopped(self) -> str:
        search = self._search
        return f"stopped after {search.n_swap} swaps, in {_place(search)}: run again with --resume"

    def _save(self) -> None:
        with span("checkpoint"):
            state = self._search.snapshot()
            state |= {name: state[name].tolist() for name in ("medoids", "trace")}
            extra = {"identity": self._identity, "state": state}
            self._checkpoint.save(self._search.n_swap, 0.0, {}, extra)

    def _load(self) -> dict[str, Any]:
        _, _, extra = self._checkpoint.load({})
        check_case(self._checkpoint.directory, extra["identity"], self._identity)
        state = extra["state"]
        return state | {"trace": [tuple(swap) for swap in state["trace"]]}


def _place(search: Progress) -> str:
    share = 100 * search.position // (search.block * search.blocks)
    return f"pass {search.passes} ({share} %)"
