"""One run of `hpckit.apps.halo` from its start to its report: what to write when, and what to say at the end."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.apps._cases import Case, Results
from hpckit.apps._march import March
from hpckit.apps._run import StopSignal, save_config
from hpckit.errors import ConfigError, together
from hpckit.io.checkpoint import Checkpoint
from hpckit.io.fields import FieldFile
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.halo import Config

_SAFE = 0.9  # of the largest stable time step
_COPIED = 64 << 20  # bytes that the ranks of a node copy together to see how fast memory is


class Job:
    """A case, its clock and its files. Everything that can be wrong is found before the first file is touched."""

    def __init__(self, comm: MPI.Intracomm, config: Config, case: Case) -> None:
        self.comm, self.config, self.case = comm, config, case
        self.stop, begin = StopSignal(comm), time.monotonic()
        self.steps, self.dt = schedule(config, case.solver.dt_max)
        with span("initial state"):
            case.start()
        self.folder = Path(config.output)
        self.results = self.folder / f"{config.equation}.vtkhdf"
        with together(comm):
            if comm.rank == 0:
                _prepare(self.folder, config.resume)
        save_config(comm, config, self.folder / "config.toml")
        self.march = March(
            case.solver,
            self.steps,
            self.dt,
            Checkpoint(self.folder / "checkpoint", case.grid),
            {"equation": config.equation, "dt": self.dt, "steps": self.steps},
            case.show,
            marks(self.steps, config.snapshots),
            every=config.checkpoint_every,
            until=begin + config.max_seconds if config.max_seconds else math.inf,
        )
        self.say(case.grid, f"steps     {self.steps} of {self.dt:.4g} {case.unit}")

    def compute(self) -> None:
        """Take all steps; raises `Checkpointed` on all ranks when asked to stop before the end."""
        if self.config.resume:
            self.march.resume()
        self.begun_at = self.march.done
        if not self.march.snapshots:
            self.seconds = self.march.run(self.stop)
            return
        times = [step * self.dt for step in self.march.snapshots]
        fields = {name: array.dtype for name, array in self.case.show().items()}
        how = {"spacing": self.case.spacing, "origin": self.case.origin, "layout": self.config.layout}
        with FieldFile(self.results, self.case.grid, fields, times, resume=self.march.done > 0, **how) as output:
            self.march.output = output
            self.seconds = self.march.run(self.stop)

    def report(self) -> dict[str, Any]:
        """Was it right, was it fast (collective)."""
        solver, steps = self.case.solver, self.steps - self.begun_at
        seconds = max(self.comm.allreduce(self.seconds, MPI.MAX), 1e-9)
        rate = self.comm.allreduce(solver.bytes_per_step) * steps / seconds
        copy = copy_rate(self.comm)
        self.say(solver.halo.explain())
        return dict(self.case.verdict()) | {
            "cell updates": f"{math.prod(self.case.grid.shape) * steps / seconds / 1e6:.4g} million/s",
            "memory traffic": f"{rate / 1e9:.3g} GB/s, {100 * rate / copy:.0f} % of copying here ({copy / 1e9:.3g} GB/s)",
        }

    def draw(self) -> dict[str, Any]:
        """Pictures of the results, drawn by rank 0 (collective); the files that there are now."""
        files = [self.results] if self.march.snapshots else []
        with together(self.comm):
            if self.comm.rank == 0 and files and self.config.pictures:
                with span("pictures"), Results(self.results) as results:
                    files += self.case.draw(results, self.folder)
        return {"written": ", ".join(map(str, [*files, self.folder / "config.toml"]))}

    def say(self, *lines: object) -> None:
        """Print on rank 0."""
        if self.comm.rank == 0:
            print(*lines, sep="\n", flush=True)


def schedule(config: Config, dt_max: float) -> tuple[int, float]:
    """Number and length of the time steps; raises `ConfigError` where they contradict each other or are unstable."""
    steps, duration, dt = config.steps, config.duration, config.dt
    if None not in (steps, duration, dt):
        raise ConfigError("steps, duration and dt are given, but two of them determine the third: leave one out")
    if dt is None and not (steps and duration):
        dt = _SAFE * dt_max
        if math.isinf(dt):
            raise ConfigError("implicit steps may have any length: give dt, or duration and steps")
    if duration is not None:
        steps = steps or math.ceil(duration / dt * (1 - 1e-12))
        dt = duration / steps
    if dt > dt_max:
        raise ConfigError(
            f"time step {dt:g} is unstable: the largest stable one is {dt_max:.6g}; use --dt {_SAFE * dt_max:.3g}"
        )
    return steps or 50, dt


def marks(steps: int, count: int) -> dict[int, int]:
    """Step to number of the snapshot after it: evenly spaced, the last one at the end."""
    if count == 1:
        return {steps: 0}
    return {step: i for i, step in enumerate(sorted({round(i * steps / (count - 1)) for i in range(count)}))}


def copy_rate(comm: MPI.Intracomm) -> float:
    """Bytes per second, read and written, when all ranks copy memory at once: the limit of every sweep (collective)."""
    source = np.ones(max(1 << 16, _COPIED // comm.size) // 16)
    target, best = np.empty_like(source), math.inf
    for _ in range(6):
        comm.Barrier()
        begin = time.perf_counter()
        np.copyto(target, source)
        best = min(best, comm.allreduce(time.perf_counter() - begin, MPI.MAX))
    return 2 * source.nbytes * comm.size / best


def _prepare(folder: Path, resume: bool) -> None:
    """The folder for results; a run that starts over does away with the checkpoints of the one before."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and (folder / "checkpoint").exists():
            shutil.rmtree(folder / "checkpoint")
    except OSError as error:
        raise ConfigError(f"cannot write results to {folder}: {error}; choose another --output") from None
