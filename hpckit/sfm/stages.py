"""What the stages of the global mapper tell of themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from hpckit.log import get_logger
from hpckit.sfm.reconstruction import Reconstruction

_LOG = get_logger(__name__)


@dataclass(frozen=True)
class Stage:
    """What a stage did; `global_mapper` passes one to its callback after each.

    ::

        global_mapper("database.db", callback=lambda stage: comm.rank or print(stage))
    """

    name: str
    model: int  # counted from 0; -1 before images are split into models
    seconds: float  # of wall time, this rank's
    numbers: dict[str, float]  # over all ranks: how many pairs, tracks, ..., errors

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.numbers.items())
        where = "" if self.model < 0 else f" of model {self.model}"
        return f"{self.name}{where}: {numbers} ({self.seconds:.2f} s)"


class Stages:
    """Tells the callback and the log what each stage did. ::

    Stages(comm, callback).tell("tracks", tracks=930)
    """

    def __init__(self, comm: MPI.Intracomm, callback: Callable[[Stage], object] | None) -> None:
        self.model = -1
        self._comm, self._callback = comm, callback
        self._begin = time.perf_counter()

    def tell(self, name: str, **numbers: float) -> None:
        """Of a stage that ends now."""
        now = time.perf_counter()
        stage = Stage(name, self.model, now - self._begin, numbers)
        self._begin = now
        if self._comm.rank == 0:
            _LOG.info("%s", stage)
        if self._callback:
            self._callback(stage)

    def total(self, *counts: int) -> list[int]:
        """Sums over all ranks."""
        return self._comm.allreduce(np.array(counts)).tolist()

    def count(self, model: Reconstruction) -> list[int]:
        """Points and observations of all ranks."""
        return self.total(len(model.points), len(model.observations))

    def mean(self, values: np.ndarray) -> float:
        """Over all ranks; 0 of none."""
        total, count = self._comm.allreduce(np.array([values.sum(), len(values)]))
        return float(total / max(count, 1))
