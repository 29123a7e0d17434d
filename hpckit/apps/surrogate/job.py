"""One run of `hpckit.apps.surrogate`: what all tasks need, and which one it is."""

from __future__ import annotations

import importlib
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.apps.surrogate.making import make_study
from hpckit.program.run import patiently, prepare
from hpckit.program.stop import StopSignal

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.surrogate.config import Config
    from hpckit.surrogate import Study


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
        study = make_study(self.comm, self.config, self.folder, self.stop)
        prepare(self.comm, self.config, self.folder, self.config.resume)
        self.files.append(self.folder / "config.toml")
        return study

    def drawing(self) -> AbstractContextManager[None]:
        """For rank 0 to draw in, while the others sleep."""
        return patiently(self.comm)

    @property
    def written(self) -> dict[str, Any]:
        """The files that there are now, as a result."""
        return {"written": ", ".join(map(str, self.files))} if self.files else {}


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Do one task; the results by name."""
    task = importlib.import_module(f"hpckit.apps.surrogate.tasks.{config.task}")
    return task.run(Job(comm, config))
