"""One run of `hpckit.apps.surrogate`: what all tasks need, and which one it is."""

from __future__ import annotations

import importlib
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpckit.apps.surrogate import summary
from hpckit.apps.surrogate.estimate import SPEEDS
from hpckit.apps.surrogate.gallery import draw
from hpckit.apps.surrogate.making import make_study
from hpckit.apps.surrogate.monitor import Monitor
from hpckit.errors import together, writing
from hpckit.files import replacing
from hpckit.program.run import patiently, prepare
from hpckit.program.stop import StopSignal
from hpckit.surrogate.recording import set_aside
from hpckit.trace import span

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.surrogate.config import Config
    from hpckit.apps.surrogate.results import Outcome, Results
    from hpckit.surrogate.result import Result
    from hpckit.surrogate.study import Study


class Job:
    """The case, its folder of results, and when to stop; methods are collective."""

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        self.comm, self.config = comm, config
        begin = time.monotonic()
        self.until = begin + config.max_seconds if config.max_seconds else math.inf
        self.stop = StopSignal(comm)
        self.folder = Path(config.output)
        self.files: list[Path] = []

    @property
    def tape(self) -> Path:
        """The folder of recorded simulations."""
        return Path(self.config.tape or self.folder / "tape")

    def study(self) -> Study:
        """That of the case, once all of it is good; its folder is there then."""
        study = self.make(self.folder)
        prepare(self.comm, self.config, self.folder, self.config.resume)
        self.files.append(self.folder / "config.toml")
        return study

    def make(self, folder: Path) -> Study:
        """A study of the case, with a folder of its own."""
        return make_study(self.comm, self.config, folder)

    def new_tape(self) -> None:
        """Set the one of the run before aside, where it is in our folder and not gone on with."""
        with together(self.comm):
            if self.comm.rank == 0 and not self.config.tape and not self.config.resume:
                with writing(self.tape):
                    set_aside(self.tape)

    def online(self, study: Study, tape: Path | None, keep: bool = False) -> tuple[Monitor, Result]:
        """Train while solvers compute; keep: a checkpoint at the end, as more comes after it."""
        monitor = Monitor(self.stop, self.until, keep)
        self.stop.check()
        with span("online"):
            result = study.run(
                resume=self.config.resume, tape=tape, each=monitor, asked=self.stop.wish
            )
        if monitor.called:
            self._keep_speeds(summary.speeds(study, monitor, result))
        return monitor, result

    def offline(self, study: Study) -> tuple[Outcome | None, Monitor, Result]:
        """Train from the tape."""
        monitor, count = Monitor(self.stop, self.until), self.config.offline.simulations
        self.stop.check()
        if not study.trains:
            self.stop.finish()  # while others train, there is nothing to stop here
        with span("offline"):
            result = study.train(self.tape, count, resume=self.config.resume, each=monitor)
        label = f"offline, {count} simulations" if count else "offline"
        return summary.outcome(label, result), monitor, result

    def keep(self, results: Results) -> None:
        """Write what rank 0 has, and draw it: all is computed."""
        self.stop.finish()
        self.files.append(self.folder / "surrogate.npz")
        with span("pictures"), self.drawing():
            if self.comm.rank == 0:
                self.files.append(results.save(self.folder))
                if self.config.pictures:
                    self.files += draw(self.folder, results)

    def drawing(self) -> AbstractContextManager[None]:
        """For rank 0 to work in, while the others sleep."""
        return patiently(self.comm)

    @property
    def written(self) -> dict[str, Any]:
        """The files that there are now, as a result."""
        return {"written": ", ".join(map(str, self.files))} if self.files else {}

    def _keep_speeds(self, found: dict[str, float]) -> None:
        path = self.folder / SPEEDS
        if self.comm.rank == 0:
            with writing(path), replacing(path) as draft:
                draft.write_bytes(msgspec.json.encode(found) + b"\n")


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Do one task; the results by name."""
    task = importlib.import_module(f"hpckit.apps.surrogate.tasks.{config.task}")
    return task.run(Job(comm, config))
