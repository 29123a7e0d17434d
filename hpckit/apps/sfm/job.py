"""One run of `hpckit.apps.sfm`: what all tasks need, and which one it is."""

from __future__ import annotations

import importlib
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from hpckit.apps.sfm import data
from hpckit.apps.sfm.estimate import making
from hpckit.errors import ConfigError, together
from hpckit.program import memory
from hpckit.program.run import patiently, prepare, say
from hpckit.program.stop import StopSignal
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.config import Config
    from hpckit.sfm.reconstruction import Reconstruction
    from hpckit.sfm.synthetic import Scene

TASKS = {  # and where they are
    "info": "info",
    "convert": "convert",
    "ba": "adjust",
    "rotations": "rotations",
    "positions": "positions",
    "triangulate": "triangulate",
    "map": "mapping",
    "plot": "plot",
}
_MODEL = "model"  # folder of the model, where no target is given


class Job:
    """The case, its folder of results, and when to stop; methods are collective."""

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        self.comm, self.config = comm, config
        begin = time.monotonic()
        self.until = begin + config.max_seconds if config.max_seconds else math.inf
        self.stop = StopSignal(comm)
        self.folder = Path(config.output)
        self.files: list[Path] = []

    def load(self) -> tuple[Reconstruction, Scene | None]:
        """What to work on, and where it is generated, the truth."""
        if not self.config.input:
            size = self.comm.size
            need = making(data.generated_counts(self.config.generate, size), size)
            memory.check(self.comm, need, "--generate.images")
        with span("input"):
            found, truth = data.load(self.comm, self.config)
        say(self.comm, f"data      {data.counts(found)}")
        return found, truth

    def prepare(self) -> None:
        """Make the folder of results, once the input is good."""
        prepare(self.comm, self.config, self.folder, self.config.resume)
        self.files.append(self.folder / "config.toml")

    def write(self, reconstruction: Reconstruction, path: Path | None = None) -> None:
        """The model, to the path, the target or into the folder of results."""
        from hpckit.sfm.formats import write

        path = path or Path(self.config.target or self.folder / _MODEL)
        with span("output"):
            write(reconstruction, path, self.config.format)
        self.files.append(path)

    def drawing(self) -> AbstractContextManager[None]:
        """For rank 0 to draw in, while the others sleep."""
        return patiently(self.comm)

    @property
    def written(self) -> dict[str, Any]:
        """The files that there are now, as a result."""
        return {"written": ", ".join(map(str, self.files))} if self.files else {}

    def needs_input(self, what: str) -> None:
        """`ConfigError` on all ranks where there is no input."""
        with together(self.comm):
            if not self.config.input:
                raise ConfigError(f"{self.config.task} needs an input: {what}")


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Do one task; the results by name."""
    task = importlib.import_module(f"hpckit.apps.sfm.tasks.{TASKS[config.task]}")
    return task.run(Job(comm, config))
