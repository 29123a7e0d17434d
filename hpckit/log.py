"""Logging that knows its rank, and progress in whole lines: under mpirun stdout is no terminal."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from hpckit.errors import ConfigError
from hpckit.units import duration

if TYPE_CHECKING:
    from mpi4py import MPI

RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")  # as launchers tell it
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
INTERVAL = 5.0  # seconds between two lines of progress


def get_logger(name: str) -> logging.Logger:
    """The logger `hpckit.name`, or `name` itself where it says hpckit already.

    ::

        _log = get_logger(__name__)
        _log.warning("%d cells are dry", count)
    """
    return logging.getLogger(name if name.partition(".")[0] == "hpckit" else f"hpckit.{name}")


def configure(comm: MPI.Intracomm, level: str | None = None) -> None:
    """Send hpckit's log to stderr, each line with its rank; for programs, not for libraries.

    level : DEBUG, INFO, WARNING or ERROR; by default `HPCKIT_LOG`, else WARNING. At INFO the other
        ranks than 0 stay at WARNING, so that nothing is told `size` times; DEBUG is for all.

    Raises `ConfigError` for another level.
    """
    wanted = (level or os.environ.get("HPCKIT_LOG") or "WARNING").upper()
    if wanted not in LEVELS:
        raise ConfigError(f"log level {wanted!r} (HPCKIT_LOG) must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler()
    digits = len(str(comm.size - 1))
    line = f"%(asctime)s rank {comm.rank:{digits}} %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(line, "%H:%M:%S"))
    logger = logging.getLogger("hpckit")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel("WARNING" if wanted == "INFO" and comm.rank > 0 else wanted)


def speaks() -> bool:
    """Whether this process is the first of its job, who speaks for all; known without MPI."""
    return next((os.environ[name] for name in RANK if name in os.environ), "0") == "0"


class progress:
    """Count work done; rank 0 prints a line every few seconds, and one at the end.

    ::

        with progress(1000, "steps", comm) as done:
            for step in range(1000): ...; done(1)

    prints ` 420/1000 steps, 42 %, 83.1 steps/s, 7 s left`.
    """

    def __init__(
        self,
        total: int,
        unit: str = "steps",
        comm: MPI.Intracomm | None = None,
        file: TextIO | None = None,
    ) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._file = file
        self._silent = comm is not None and comm.rank > 0
        self._begin = time.monotonic()
        self._next = self._begin + INTERVAL

    def __call__(self, count: int = 1) -> None:
        """Say that `count` more are done."""
        self.done += count
        if not self._silent and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            self._print(f"{self._so_far()}, {duration(self._left())} left")

    def __enter__(self) -> progress:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._silent:
            self._print(f"{self._so_far()}, {duration(time.monotonic() - self._begin)} in all")

    def _so_far(self) -> str:
        percent = 100 * self.done // max(self.total, 1)
        done = f"{self.done:>{len(str(self.total))}}/{self.total} {self.unit}"
        return f"{done}, {percent} %, {self._rate():.3g} {self.unit}/s"

    def _rate(self) -> float:
        return self.done / max(time.monotonic() - self._begin, 1e-9)

    def _left(self) -> float:
        return (self.total - self.done) / self._rate() if self.done else float("inf")

    def _print(self, line: str) -> None:
        file = self._file or sys.stdout
        file.write(line + "\n")
        file.flush()
