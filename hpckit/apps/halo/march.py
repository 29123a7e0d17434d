"""The time loop of `hpckit.apps.halo`: steps, snapshots, checkpoints, and a stop in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.log import progress
from hpckit.trace import seconds, span

if TYPE_CHECKING:
    from hpckit.io.checkpoint import Checkpoint
    from hpckit.io.fields import FieldFile
    from hpckit.pde.solver import Solver
    from hpckit.program.stop import StopSignal

_PAUSE = 1.0  # seconds between two meetings of all ranks


@dataclass
class March:
    """All that a run does between its first and its last step.

    show : the arrays to write as a snapshot; snapshots : step to number of the snapshot after it
        (0: initial state).
    every : steps between checkpoints; 0: only when the run is asked to stop.
    until : when to stop at the latest, in seconds of `time.monotonic`.
    identity : what a checkpoint must have in common with this run, as JSON.
    """

    solver: Solver
    steps: int
    dt: float
    checkpoint: Checkpoint
    identity: Mapping[str, object]
    show: Callable[[], Mapping[str, np.ndarray]]
    snapshots: Mapping[int, int] = field(default_factory=dict)
    output: FieldFile | None = None
    every: int = 0
    until: float = math.inf
    done: int = 0
    counted: int = -1  # steps that took `seconds`
    seconds: float = 0.0
    halo_seconds: float = 0.0  # thereof, for halos

    def resume(self) -> None:
        """Go on from the newest good checkpoint, if there is one (collective)."""
        if not self.checkpoint.exists():
            return
        self.done, self.solver.time, identity = self.checkpoint.load(self.solver.fields)
        if identity != self.identity:
            raise ConfigError(
                f"the checkpoints in {self.checkpoint.directory} are of another case, with "
                f"{identity} instead of"
                f" {self.identity}: choose another --output, or leave out --resume to start over"
            )

    def run(self, stop: StopSignal) -> None:
        """Take the steps that are left (collective).

        Raises `Checkpointed` on all ranks when one was asked to stop, `HpckitError` when the state
        is no longer finite.
        """
        if self.done == 0:
            stop.check()
            self._snapshot()
        with progress(self.steps, "steps", self.solver.grid.comm) as tell:
            tell(self.done)
            count = min(1, self.steps - self.done)
            while count:
                per_step = self._advance(count) / count
                tell(count)
                pace = self._meet(stop, per_step)
                self._snapshot()
                if self.every and self.done % self.every == 0:
                    self._save()
                count = min(pace, self._next_date() - self.done)

    def _advance(self, count: int) -> float:
        """Take `count` steps; the seconds they took. The first step plans the exchange, and is not
        counted.
        """
        begin, before, cold = time.perf_counter(), _halo_seconds(), self.counted < 0
        with span("first step" if cold else "steps", count * self.solver.bytes_per_step):
            for _ in range(count):
                self.solver.step(self.dt)
        spent = time.perf_counter() - begin
        self.done += count
        self.counted += count
        if not cold:
            self.seconds += spent
            self.halo_seconds += _halo_seconds() - before
        return spent

    def _next_date(self) -> int:
        """The next step after which something is written."""
        dates = [step for step in self.snapshots if step > self.done]
        if self.every:
            dates.append(self.done - self.done % self.every + self.every)
        return min([*dates, self.steps])

    def _meet(self, stop: StopSignal, per_step: float) -> int:
        """Ask all ranks whether to stop and whether all is well; returns the steps until the next
        meeting.
        """
        broken = any(
            np.isnan(array[self.solver.grid.owned]).any() for array in self.solver.fields.values()
        )
        news = np.array([time.monotonic() > self.until, broken, max(1, int(_PAUSE / per_step))])
        self.solver.grid.comm.Allreduce(MPI.IN_PLACE, news, MPI.MAX)
        over, broken, pace = map(int, news)
        if broken:
            raise HpckitError(
                f"the state holds NaN after {self.done} of {self.steps} steps of {self.dt:g}:"
                " try a smaller time step (--dt) or look at the input"
            )
        if (over or stop.requested()) and self.done < self.steps:
            self._snapshot()
            self._save()
            raise Checkpointed(
                f"stopped after {self.done} of {self.steps} steps: run again with --resume to go on"
            )
        return pace

    def _snapshot(self) -> None:
        """Write the snapshot that is due now, if one is."""
        number = self.snapshots.get(self.done)
        if self.output and number is not None:
            with span("snapshot"):
                for name, array in self.show().items():
                    self.output.write(number, self.solver.time, name, array)

    def _save(self) -> None:
        """Checkpoint; what was written before is on the disk before it."""
        with span("checkpoint"):
            if self.output:
                self.output.sync()
            self.checkpoint.save(self.done, self.solver.time, self.solver.fields, self.identity)


def _halo_seconds() -> float:
    return seconds("halo start") + seconds("halo wait")
