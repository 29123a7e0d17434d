"""One run of `hpckit.apps.halo` from its start to its report: what to do when, what to say."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from hpckit.apps.halo.estimate import memory
from hpckit.apps.halo.input import read_input
from hpckit.apps.halo.layout import ghosts, layout
from hpckit.apps.halo.schedule import marks, schedule
from hpckit.comm.device import HOST
from hpckit.comm.grid import Grid
from hpckit.comm.places import open_device
from hpckit.errors import HpckitError, together
from hpckit.io.checkpoint import Checkpoint
from hpckit.io.fields import FieldFile
from hpckit.io.results import Results
from hpckit.log import progress
from hpckit.pde import EQUATIONS, Setup
from hpckit.pde.planes import Planes
from hpckit.program.figure import drawing
from hpckit.program.loop import At, Every, If, Loop, check_case
from hpckit.program.memory import check
from hpckit.program.report import copy_rate, rounded
from hpckit.program.run import patiently, prepare, say
from hpckit.program.stop import StopSignal
from hpckit.trace import seconds, span

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config
    from hpckit.pde import Equation
    from hpckit.pde.backend import Place


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Compute, write and draw one case; the results by name."""
    need = 0.0
    with together(comm):
        need = memory(config, comm.size)[comm.rank]
    check(comm, need, "--shape or --refine")
    job = Job(comm, config, equation(comm, config))
    job.compute()
    return job.report() | job.draw()


def equation(comm: MPI.Intracomm, config: Config) -> Equation[Any, Any]:
    """The equation of a case, with its solver, on these ranks (collective)."""
    shape, processes = layout(config, comm.size)
    grid = Grid(
        comm, shape, periodic=config.periodic, process_shape=processes, width=ghosts(config)
    )
    numerics = {"dtype": config.dtype, "threads": config.threads, "method": config.method}
    read = (lambda: read_input(grid, config)) if config.input else None
    setup = Setup(grid, numerics, config.bounds, read, _place(comm, config))
    return EQUATIONS[config.equation](setup, config.options)


def _place(comm: MPI.Intracomm, config: Config) -> Place:
    """What computes: this rank's CPU, or its device, which is said (collective)."""
    if config.device == "cpu":
        return HOST
    device = open_device(comm, config.device, config.share)
    each = comm.allgather((device.title, device.uuid))
    titles = Counter(title for title, _ in set(each))
    say(comm, f"devices   {', '.join(f'{n} x {title}' for title, n in titles.items())}")
    return device


class Job:
    """An equation, its time steps and its files.

    Everything that can be wrong is found before the first file is touched.
    """

    def __init__(self, comm: MPI.Intracomm, config: Config, equation: Equation[Any, Any]) -> None:
        self.comm = comm
        self.config = config
        self.equation = equation
        self.solver = equation.solver
        self.stop = StopSignal(comm)
        begin = time.monotonic()
        self.until = begin + config.max_seconds if config.max_seconds else math.inf
        self.steps, self.dt = schedule(config, self.solver.dt_max)
        self.snapshots = marks(self.steps, config.snapshots)
        with span("initial state"):
            equation.start()
        self.folder = Path(config.output)
        self.path = self.folder / f"{config.equation}.vtkhdf"
        prepare(comm, config, self.folder, config.resume)
        self.checkpoint = Checkpoint(self.folder / "checkpoint", equation.grid)
        self.identity = {"equation": config.equation, "dt": self.dt, "steps": self.steps}
        self.output: FieldFile | None = None
        self.done = 0
        self.counted = -1  # steps of this run but the first, which plans the exchange
        self.seconds = 0.0  # that those took
        self.halo_seconds = 0.0  # thereof, for halos
        say(comm, equation.grid, f"steps     {self.steps} of {self.dt:.4g} {equation.unit}")

    def compute(self) -> None:
        """Take all steps; raises `Checkpointed` on all ranks when asked to stop before the end."""
        self.copying = self._copying()
        if self.config.resume and self.checkpoint.exists():
            with self.solver.changing() as fields:
                self.done, self.solver.time, identity = self.checkpoint.load(fields)
            check_case(self.checkpoint.directory, identity, self.identity)
        if not self.snapshots:
            self._march()
            return
        times = [step * self.dt for step in self.snapshots]
        fields = {name: array.dtype for name, array in self.equation.show().items()}
        with FieldFile(
            self.path,
            self.equation.grid,
            fields,
            times,
            spacing=self.equation.spacing,
            origin=self.equation.origin,
            layout=self.config.layout,
            resume=self.done > 0,
        ) as self.output:
            self._march()

    def report(self) -> dict[str, Any]:
        """Was it right, was it fast (collective)."""
        verdict = self.equation.verdict()
        results: dict[str, Any] = {name: rounded(value) for name, value in verdict.items()}
        if self.counted < 1:  # nothing but the first step, or all was done before
            return results
        say(self.comm, self.solver.halo.explain())
        rate = self.counted / self.comm.allreduce(self.seconds, MPI.MAX)
        cells = math.prod(self.equation.grid.shape)
        results["cell updates, million/s"] = rounded(cells * rate / 1e6)
        # Of the rank that waits least, because the others wait for it.
        halo = self.comm.allreduce(self.halo_seconds, MPI.MIN)
        if halo:  # the implicit solver exchanges within PETSc
            traffic = self.comm.allreduce(self.solver.bytes_per_step) * rate
            limit = (self.copying + self._copying()) / 2  # before the steps, and after them
            results["memory traffic, GB/s"] = rounded(traffic / 1e9)
            results["memory traffic, % of copying"] = rounded(100 * traffic / limit)
            if self.solver.place is HOST:  # while it waits for a halo, a device computes
                results["halo share, % of the steps"] = rounded(100 * halo * rate / self.counted)
        return results

    def draw(self) -> dict[str, Any]:
        """Pictures of the results, drawn by rank 0 (collective); the files that there are now."""
        files = [self.folder / "config.toml", *([self.path] if self.snapshots else [])]
        with patiently(self.comm):
            if self.snapshots and self.config.pictures and self.comm.rank == 0:
                with span("pictures"), Results(self.path) as results:
                    for picture in self.equation.pictures(Planes(results)):
                        files.append(self.folder / picture.name)
                        with drawing(files[-1], picture.size) as figure:
                            picture.paint(figure)
        return {"written": ", ".join(map(str, files))}

    def _march(self) -> None:
        """The steps that are left, and what happens between them."""
        save = Every(steps=self.config.checkpoint_every, at_stop=True)
        loop = Loop(
            self.comm,
            [
                (If(self.solver.has_nan), self._fail),
                (At(self.snapshots), self._write),
                (save, self._save),
            ],
            stop=self.stop,
            stopped=self._stopped,
            steps=self.steps,
            done=self.done,
            until=self.until,
        )
        with progress(self.steps, "steps", self.comm) as tell:
            tell(self.done)
            for count in loop:
                self._advance(count)
                tell(count)

    def _advance(self, count: int) -> None:
        begin, before, cold = time.perf_counter(), _halo_seconds(), self.counted < 0
        with span("first step" if cold else "steps", count * self.solver.bytes_per_step):
            for _ in range(count):
                self.solver.step(self.dt)
            self.solver.synchronize()
        self.done += count
        self.counted += count
        if not cold:
            self.seconds += time.perf_counter() - begin
            self.halo_seconds += _halo_seconds() - before

    def _fail(self) -> None:
        raise HpckitError(
            f"the state holds NaN after {self.done} of {self.steps} steps of {self.dt:g}:"
            " try a smaller time step (--dt) or look at the input"
        )

    def _write(self) -> None:
        """The snapshot that is due now."""
        if self.output:
            with span("snapshot"):
                for name, array in self.equation.show().items():
                    self.output.write(self.snapshots[self.done], self.solver.time, name, array)

    def _save(self) -> None:
        """A checkpoint, after what was written before it is on the disk."""
        with span("checkpoint"):
            if self.output:
                self.output.sync()
            self.checkpoint.save(self.done, self.solver.time, self.solver.fields, self.identity)

    def _stopped(self) -> str:
        return f"stopped after {self.done} of {self.steps} steps: run again with --resume to go on"

    def _copying(self) -> float:
        nbytes = math.prod(self.equation.grid.local_shape) * self.solver.dtype.itemsize
        return copy_rate(self.comm, nbytes, self.solver.place)


def _halo_seconds() -> float:
    return seconds("halo start") + seconds("halo wait")
