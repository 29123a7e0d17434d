"""One run of `hpckit.apps.kmedoids` from its input to its report."""

from __future__ import annotations

import math
import time
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from mpi4py import MPI

from hpckit import cluster
from hpckit.apps.kmedoids.data import Table, points
from hpckit.apps.kmedoids.monitor import Monitor
from hpckit.apps.kmedoids.results import pictures, save
from hpckit.errors import ConfigError, together
from hpckit.program import memory
from hpckit.program.report import PROCESS, copy_rate, rounded
from hpckit.program.run import patiently, prepare, say
from hpckit.program.stop import StopSignal
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.kmedoids.config import Config

_RESUMED = ("fasterpam", "pam")  # searches that can be stopped and resumed
_SILHOUETTES = ("fastermsc", "dynmsc")  # searches whose loss is 1 - the average medoid silhouette
_DRAWN = 3000  # objects in pictures, beside the medoids
_TICK = 4  # bytes of a distance
_COPIES = 4  # of the points that every rank has for a while


class Job:
    """The data, the search and its files, which are touched only once the data is there."""

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        self.comm = comm
        self.config = config
        begin = time.monotonic()
        self.stop = StopSignal(comm)
        with together(comm):
            self.options = options(config)
        if not config.input:
            generated = config.generate
            per_rank = _COPIES * 8 * points(generated, comm.size) * generated.dimension
            middles = 8 * generated.clouds * (generated.dimension + 2)
            memory.check(
                comm,
                PROCESS + per_rank + middles,
                "--generate.n, --generate.dimension or --generate.clouds",
            )
        with span("input"):
            self.table = Table(comm, config)
        self.n = self.table.n
        self.is_matrix = config.metric == "precomputed"
        with together(comm):
            if config.k > self.n:
                raise ConfigError(
                    f"k = {config.k}, but there are only {self.n} objects: --k must be 1 to "
                    f"{self.n}"
                )
        self.folder = Path(config.output)
        prepare(comm, config, self.folder, config.resume)
        self.monitor = self._monitor(begin) if config.method in _RESUMED else None
        columns, dtype = self.table.rows.shape[1], self.table.rows.dtype
        say(self.comm, f"data      {self.n:,} x {columns:,} {dtype}")
        say(self.comm, f"search    {config.k} medoids by {config.method}, {config.metric}")

    def _monitor(self, begin: float) -> Monitor:
        config = self.config
        identity = {"k": config.k, "method": config.method, "metric": config.metric, "n": self.n}
        until = begin + config.max_seconds if config.max_seconds else math.inf
        folder = self.folder / "checkpoint"
        return Monitor(
            self.comm, self.stop, folder, identity, every=config.checkpoint_every, until=until
        )

    def search(self) -> None:
        """Find the medoids; `Checkpointed` on all ranks when asked to stop before the end."""
        if self.monitor:
            self.options |= {
                "monitor": self.monitor,
                "resume": self.monitor.resumed() if self.config.resume else None,
            }
        self.copying = self._copying()
        self.stop.check()
        find = getattr(cluster, self.config.method)
        self.result = find(
            self.table.rows, self.config.k, comm=self.comm, distributed=True, **self.options
        )
        self.stop.finish()

    def report(self) -> dict[str, Any]:
        """How good it is, how fast it was (collective)."""
        found = self.result
        results: dict[str, Any] = {"loss": found.loss, "medoids": len(found.medoids)}
        if self.config.method in _SILHOUETTES:
            results["average medoid silhouette"] = rounded(1 - found.loss)
        else:
            results["mean distance to the medoid"] = rounded(found.loss / self.n)
        results |= {"swaps": found.n_swap, "passes": found.n_iter}
        if self.config.method == "fasterpam" and self.monitor and self.monitor.candidates:
            read = self.monitor.candidates * self.n * _TICK
            spent = self.comm.allreduce(self.monitor.seconds, MPI.MAX)
            limit = (self.copying + self._copying()) / 2  # before the search, and after it
            results["distances read, GB"] = rounded(read / 1e9)
            results["distances read, GB/s"] = rounded(read / spent / 1e9)
            results["distances read, % of copying"] = rounded(100 * read / spent / limit)
        return results

    def _copying(self) -> float:
        return copy_rate(self.comm, self.n * self.n * _TICK // self.comm.size)

    def write(self) -> dict[str, Any]:
        """Results and pictures, by rank 0 (collective); the files that there are now."""
        files = [self.folder / "config.toml", self.folder / "result.h5"]
        with span("results"):
            centers = None if self.is_matrix else self.table.take(self.result.medoids)
            with together(self.comm):
                if self.comm.rank == 0:
                    save(files[-1], self.config, self.result, centers)
        if self.config.pictures:
            with span("pictures"):
                files += self._draw()
        return {"written": ", ".join(map(str, files))}

    def _draw(self) -> list[Path]:
        """The pictures, of so many objects that they stay legible (collective)."""
        drawn = np.unique(
            np.concatenate(
                [np.linspace(0, self.n - 1, _DRAWN, dtype=np.int64), self.result.medoids]
            )
        )
        sample = self.table.take(drawn, drawn if self.is_matrix else None)
        with patiently(self.comm):
            return (
                []
                if sample is None
                else pictures(self.folder, self.config, self.result, drawn, sample)
            )


def options(config: Config) -> dict[str, Any]:
    """What the search is called with beside the data; `ConfigError` where it takes no such."""
    given = {
        key: value
        for key in ("init", "block", "max_iter")
        if (value := getattr(config, key)) is not None
    }
    wrong = sorted(given.keys() - signature(getattr(cluster, config.method)).parameters.keys())
    if wrong:
        raise ConfigError(
            f"{wrong[0]} = {given[wrong[0]]!r}, but method {config.method!r} has no {wrong[0]}: "
            "leave it out"
        )
    if config.method not in _RESUMED and (config.max_seconds or config.checkpoint_every):
        raise ConfigError(
            f"method {config.method!r} has no checkpoints, only {' and '.join(_RESUMED)} have them"
        )
    section = (
        msgspec.structs.asdict(getattr(config, config.method))
        if hasattr(config, config.method)
        else {}
    )
    common = {"metric": config.metric, "random_state": config.seed}
    common |= {"threads": config.threads, "memory": config.memory}
    return given | {key: value for key, value in section.items() if value is not None} | common


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Search, write and draw one case; the results by name."""
    job = Job(comm, config)
    job.search()
    return job.report() | job.write()
