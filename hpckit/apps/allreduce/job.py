"""One run of `hpckit.apps.allreduce`: every algorithm at every size, report, file and picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from mpi4py import MPI

from hpckit.apps.allreduce.estimate import buffers, to_json
from hpckit.apps.allreduce.rows import WINDOW, Row, best, table
from hpckit.apps.allreduce.timing import Call, Numbers, Start, interleaved
from hpckit.collectives import Allreduce
from hpckit.collectives.algorithms import possible, predict
from hpckit.collectives.channel import Channel, empty
from hpckit.errors import ConfigError, agree, meet, together, writing
from hpckit.files import replacing
from hpckit.log import progress
from hpckit.machine.model import with_links
from hpckit.machine.store import mpi_library
from hpckit.program import memory
from hpckit.program.report import PROCESS, rounded
from hpckit.program.run import prepare, version
from hpckit.program.stop import StopSignal
from hpckit.trace import span
from hpckit.units import amount, binary

if TYPE_CHECKING:
    from hpckit.apps.allreduce.config import Config

WINDOWED = ("hierarchical", "shared", "auto")  # to which it makes a difference where arrays lie
# Arrays of the largest size that a rank has: two that are summed, two patterns, one expected sum.
_ARRAYS = 5


class Job:
    """The links, the rows, and what is made of them."""

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        self.comm = comm
        self.config = config
        self.folder = Path(config.output)
        self.stop = StopSignal(comm)
        self.channel = Channel.of(comm)
        nodes = comm.allgather(self.channel.node.ranks[0])
        with together(comm):
            self.ways = self._ways(most=max(map(nodes.count, nodes)))
        memory.check(comm, PROCESS + _ARRAYS * max(config.sizes), "--sizes")
        prepare(comm, config, self.folder, resume=False)
        with span("links"):
            model = with_links(self.channel.comm, self.channel.node, fresh=config.save)
            assert model.links is not None
            self.links = self.channel.links = model.links
        self.start = Start(comm, self.links.nodes == 1)
        self.rows: list[Row] = []
        self.say(f"{self.links}\n")

    def sweep(self) -> None:
        """Measure all sizes (collective)."""
        with progress(len(self.config.sizes), "sizes", self.comm) as done:
            for nbytes in self.config.sizes:
                with span("sweep"):
                    calls = self._calls(nbytes)
                    times = interleaved(
                        self.comm, calls, self.start, self.config.seconds, self.stop.check
                    )
                rows = self._rows(nbytes, calls, times)
                self.rows += rows
                self.say(
                    *table(rows, f"{binary(nbytes)}, {len(times['native'])} calls of each"), ""
                )
                done(1)

    def report(self) -> dict[str, Any]:
        """The figures of merit."""
        results: dict[str, Any] = {"results checked": len(self.rows)}
        for way in [name for name in self.ways if name.startswith("auto")]:
            fixed = [
                best(self.rows, n, windows=way.endswith(WINDOW)).median for n in self.config.sizes
            ]
            regret = [mine.median / other for mine, other in zip(self._of(way), fixed, strict=True)]
            results[f"time of {way} over the fastest, geometric mean"] = rounded(_geomean(regret))
            results[f"time of {way} over the fastest, largest"] = rounded(max(regret))
            results[f"speed-up by {way}, geometric mean"] = rounded(
                _geomean(row.ratio for row in self._of(way))
            )
        off = [
            abs(math.log(row.predicted / row.median))
            for row in self.rows
            if row.predicted and row.way != "auto"
        ]
        if off:
            results["model off by a factor of, median"] = rounded(math.exp(float(np.median(off))))
        return results

    def write(self) -> dict[str, Any]:
        """Results and picture, by rank 0 (collective); the files that there are now."""
        files = [self.folder / "config.toml", self.folder / "result.json"]
        error = None
        if self.comm.rank == 0:
            try:
                self._save(files[-1])
                files += self._draw() if self.config.pictures else []
            except Exception as caught:
                error = caught
        meet(self.comm)
        agree(self.comm, error)
        return {"written": ", ".join(map(str, files))}

    def say(self, *lines: object) -> None:
        """Print on rank 0."""
        if self.comm.rank == 0:
            print(*lines, sep="\n", flush=True)

    def _ways(self, most: int) -> list[str]:
        """All that is measured: algorithms, some of them once more with arrays in windows.

        most : ranks on one node; levels and windows are for several
        """
        can = [*possible(self.channel, MPI.SUM), "auto"]
        wrong = [name for name in self.config.algorithms if name not in can]
        if wrong:
            raise ConfigError(
                f"algorithm {wrong[0]!r} needs all ranks on one node: use one of {', '.join(can)}"
            )
        senseless = () if 1 < most < self.comm.size else ("hierarchical",)
        wanted = dict.fromkeys(
            ["native", *(self.config.algorithms or (n for n in can if n not in senseless))]
        )
        own = most == 1 or "numpy" in self.config.arrays
        windows = most > 1 and "window" in self.config.arrays
        ways = [name for name in wanted if own or name not in WINDOWED]
        return ways + [name + WINDOW for name in wanted if windows and name in WINDOWED]

    def _calls(self, nbytes: int) -> dict[str, Call]:
        """A plan for each way, all of them on the same two arrays (collective)."""
        n = nbytes // 8
        plain, window = Numbers(self.comm, np.zeros(n)), Numbers(self.comm, empty(self.comm, n))
        calls = {}
        for way in self.ways:
            algorithm, numbers = (
                way.removesuffix(WINDOW),
                window if way.endswith(WINDOW) else plain,
            )
            need = self.comm.allreduce(
                buffers(algorithm, self.comm.rank, self.comm.size, nbytes), MPI.MAX
            )
            if need > self.config.buffers:
                self.say(
                    f"{binary(nbytes)} by {way} needs {amount(need)} more on a rank: left out "
                    "(--buffers)"
                )
            else:
                plan = Allreduce(self.comm, numbers.array, algorithm=algorithm)
                calls[way] = Call(plan, numbers, plan)
        return calls

    def _rows(
        self, nbytes: int, calls: Mapping[str, Call], times: Mapping[str, np.ndarray]
    ) -> list[Row]:
        model, native = predict(self.links, nbytes), float(np.median(times["native"]))
        rows = []
        for way, samples in times.items():
            low, median, high = map(float, np.quantile(samples, [0.25, 0.5, 0.75]))
            plan = calls[way].plan
            algorithm = plan.algorithm if plan else way
            row = Row(
                nbytes,
                way,
                algorithm,
                median,
                low,
                high,
                nbytes / median,
                native / median,
                model.get(algorithm),
            )
            rows.append(row)
        return rows

    def _of(self, way: str) -> list[Row]:
        return [row for row in self.rows if row.way == way]

    def _save(self, path: Path) -> None:
        """All rows and the links as JSON, whole or not at all."""
        said = {"hpckit": version(), "mpi": mpi_library(), "ranks": self.comm.size}
        content = {**said, "links": to_json(self.links), "rows": self.rows}
        text = msgspec.json.encode(content, enc_hook=float)
        with writing(path), replacing(path) as draft:
            draft.write_bytes(msgspec.json.format(text, indent=1))

    def _draw(self) -> list[Path]:
        from hpckit.apps.allreduce.pictures import curves

        nodes = f"{self.links.nodes} nodes" if self.links.nodes > 1 else "one node"
        ranks = f"{self.comm.size} rank{'s' * (self.comm.size > 1)}"
        return [
            curves(
                self.folder / "allreduce.png",
                self.rows,
                f"Allreduce on {ranks}, {nodes}, {mpi_library()}",
            )
        ]


def _geomean(values: Iterable[float]) -> float:
    return math.exp(float(np.mean(np.log(list(values)))))


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Measure, write and draw one case; the results by name."""
    job = Job(comm, config)
    job.sweep()
    return job.report() | job.write()
