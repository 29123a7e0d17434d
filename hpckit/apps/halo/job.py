"""One run of `hpckit.apps.halo` from its start to its report: what to write when, and what to say
at the end.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from hpckit.apps.halo.cases import Case, Results
from hpckit.apps.halo.estimate import SAFE, STEPS
from hpckit.apps.halo.march import March
from hpckit.errors import ConfigError
from hpckit.io.checkpoint import Checkpoint
from hpckit.io.fields import FieldFile
from hpckit.program.report import copy_rate, rounded
from hpckit.program.run import patiently, prepare, say
from hpckit.program.stop import StopSignal
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

_MOST_STEPS = 10**15  # more would take longer than anyone waits


class Job:
    """A case, its clock and its files. Everything that can be wrong is found before the first file
    is touched.
    """

    def __init__(self, comm: MPI.Intracomm, config: Config, case: Case[Any]) -> None:
        self.comm, self.config, self.case = comm, config, case
        self.stop, begin = StopSignal(comm), time.monotonic()
        self.steps, self.dt = schedule(config, case.solver.dt_max)
        with span("initial state"):
            case.start()
        self.folder = Path(config.output)
        self.results = self.folder / f"{config.equation}.vtkhdf"
        prepare(comm, config, self.folder, config.resume)
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
        say(self.comm, case.grid, f"steps     {self.steps} of {self.dt:.4g} {case.unit}")

    def compute(self) -> None:
        """Take all steps; raises `Checkpointed` on all ranks when asked to stop before the end."""
        self.copying = self._copying()
        if self.config.resume:
            self.march.resume()
        if not self.march.snapshots:
            self.march.run(self.stop)
            return
        times = [step * self.dt for step in self.march.snapshots]
        fields = {name: array.dtype for name, array in self.case.show().items()}
        how = {
            "spacing": self.case.spacing,
            "origin": self.case.origin,
            "layout": self.config.layout,
        }
        with FieldFile(
            self.results, self.case.grid, fields, times, resume=self.march.done > 0, **how
        ) as output:
            self.march.output = output
            self.march.run(self.stop)

    def report(self) -> dict[str, Any]:
        """Was it right, was it fast (collective)."""
        results: dict[str, Any] = {
            name: rounded(value) for name, value in self.case.verdict().items()
        }
        steps, solver = self.march.counted, self.case.solver
        if steps < 1:  # nothing but the first step, or all was done before
            return results
        say(self.comm, solver.halo.explain())
        seconds = self.comm.allreduce(self.march.seconds, MPI.MAX)
        halo = self.comm.allreduce(
            self.march.halo_seconds, MPI.MIN
        )  # of the rank that the others wait for
        results["cell updates, million/s"] = rounded(
            math.prod(self.case.grid.shape) * steps / seconds / 1e6
        )
        if halo:  # the implicit solver exchanges within PETSc
            traffic = self.comm.allreduce(solver.bytes_per_step) * steps / seconds
            limit = (self.copying + self._copying()) / 2  # before the steps, and after them
            results["memory traffic, GB/s"] = rounded(traffic / 1e9)
            results["memory traffic, % of copying"] = rounded(100 * traffic / limit)
            results["halo share, % of the steps"] = rounded(100 * halo / seconds)
        return results

    def _copying(self) -> float:
        return copy_rate(self.comm, next(iter(self.case.solver.fields.values())).nbytes)

    def draw(self) -> dict[str, Any]:
        """Pictures of the results, drawn by rank 0 (collective); the files that there are now."""
        files = [self.folder / "config.toml", *([self.results] if self.march.snapshots else [])]
        with patiently(self.comm):
            if self.march.snapshots and self.config.pictures and self.comm.rank == 0:
                with span("pictures"), Results(self.results) as results:
                    files += self.case.draw(results, self.folder)
        return {"written": ", ".join(map(str, files))}


def schedule(config: Config, dt_max: float) -> tuple[int, float]:
    """Number and length of the time steps; raises `ConfigError` where they contradict each other or
    are unstable.
    """
    if None not in (config.steps, config.duration, config.dt):
        raise ConfigError(
            "steps, duration and dt are given, but two of them determine the third: leave one out"
        )
    if not dt_max > 0:
        raise ConfigError(
            f"the largest stable time step is {dt_max:g} with {coefficient(config)}: choose one "
            "that suits the size of"
            " the cells"
        )
    steps, dt = config.steps or STEPS, config.dt or SAFE * dt_max
    if config.duration is not None:
        if config.steps is None and not config.duration / dt < _MOST_STEPS:
            raise ConfigError(
                f"duration {config.duration:g} takes {config.duration / dt:.3g} steps of {dt:g}: "
                "too many"
            )
        steps = config.steps or max(1, math.ceil(config.duration / dt))
        dt = config.duration / steps if config.steps or math.isfinite(dt) else dt
    if math.isinf(dt):
        raise ConfigError(
            f"with {coefficient(config)} steps may have any length: give dt, or duration and steps"
        )
    if dt > dt_max:
        raise ConfigError(
            f"time step {dt:g} is unstable: the largest stable one is {dt_max:.6g}, so use --dt "
            f"{SAFE * dt_max:.3g}"
        )
    if not math.isfinite(steps * dt) or dt == 0:
        raise ConfigError(
            f"{steps} steps of {dt:g} are no time that 64-bit numbers can tell: use others"
        )
    if config.snapshots > steps + 1:
        raise ConfigError(
            f"snapshots = {config.snapshots}, but {steps} steps have only {steps + 1} moments to "
            "write"
        )
    return steps, dt


def coefficient(config: Config) -> str:
    """The key, and its value, on which the time step depends."""
    return {
        "heat": f"heat.kappa = {config.heat.kappa:g}",
        "tsunami": f"tsunami.shallowest = {config.tsunami.shallowest:g} and the depths in the input",
        "hillslope": f"hillslope.diffusivity = {config.hillslope.diffusivity:g}",
    }[config.equation]


def marks(steps: int, count: int) -> dict[int, int]:
    """Step to number of the snapshot after it: evenly spaced, the last one at the end."""
    if count == 1:
        return {steps: 0}
    return {
        step: i
        for i, step in enumerate(sorted({round(i * steps / (count - 1)) for i in range(count)}))
    }
