"""What benchmarks share: start ranks, interleave ways, keep the minimum, print, write JSON.

Interleaving matters more than repeating: a virtual machine changes its speed by tens of per cent
from minute to minute, so a ratio is only fair between calls that took turns within the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

_BLOCKS = 5  # a ratio's range is taken over this many parts of the run
_STARTED = "HPCKIT_BENCHMARK_STARTED"


@dataclass(frozen=True)
class Times:
    """Seconds of one way: `samples` has one value per repeat, the slowest rank's."""

    samples: np.ndarray

    @property
    def best(self) -> float:
        return float(self.samples.min())

    def ratio(self, peer: Times) -> tuple[float, float, float]:
        """Peer's time over ours, and its lowest and highest value over parts of the run."""
        theirs = np.array_split(peer.samples, _BLOCKS)
        ours = np.array_split(self.samples, _BLOCKS)
        parts = zip(theirs, ours, strict=True)
        ratios = [float(p.min() / s.min()) for p, s in parts if p.size and s.size]
        ratio = peer.best / self.best
        return ratio, min([ratio, *ratios]), max([ratio, *ratios])


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    comm: Any = None,
    prepare: Callable[[str], object] = lambda _: None,
    calls: int = 1,
    most: int = 2000,
) -> dict[str, Times]:
    """Time all ways in turn for about `seconds` in all; collective over `comm`.

    Each sample is `prepare(name)` (not timed), a barrier, and the mean of `calls` calls of the way.
    """

    def sample(name: str, way: Callable[[], object]) -> float:
        prepare(name)
        if comm is not None:
            comm.Barrier()
        begin = time.perf_counter()
        for _ in range(calls):
            way()
        return (time.perf_counter() - begin) / calls

    def run(repeats: int) -> np.ndarray:
        return np.array([[sample(*item) for item in ways.items()] for _ in range(repeats)])

    run(2)  # plans, page faults, caches
    begin = time.perf_counter()
    run(3)
    repeats = int(np.clip(seconds / max(time.perf_counter() - begin, 1e-9) * 3, 4 * _BLOCKS, most))
    if comm is not None:
        repeats = comm.bcast(repeats)
    samples = run(repeats)
    if comm is not None:
        from mpi4py import MPI

        comm.Allreduce(MPI.IN_PLACE, samples, MPI.MAX)
    return {name: Times(samples[:, i]) for i, name in enumerate(ways)}


def geomean(values: Iterable[float]) -> float:
    """Geometric mean; NaN of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


@dataclass
class Report:
    """The results of one benchmark; `limit` is the fraction of a physical limit, where known."""

    benchmark: str
    results: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        case: str,
        peer: str,
        ratio: float,
        low: float,
        high: float,
        target: float | None = None,
        limit: float | None = None,
    ) -> None:
        """`ratio`: peer's time over ours, above 1 where we are faster; `low`, `high`: its range."""
        numbers = {"ratio": ratio, "low": low, "high": high, "target": target, "limit": limit}
        rounded = {k: None if v is None else float(f"{v:.4g}") for k, v in numbers.items()}
        self.results.append({"case": case, "peer": peer, **rounded})

    def print_targets(self) -> None:
        """The results that have a target, as a table."""
        rows = [
            (r["case"], r["peer"], r["ratio"], r["low"], r["high"], r["target"], _verdict(r))
            for r in self.results
            if r["target"] is not None
        ]
        head = ("case", "peer", "ratio", "low", "high", "target", "")
        print_table(head, rows, f"{self.benchmark}: targets")

    def save(self, path: Path) -> None:
        document = {
            "benchmark": self.benchmark,
            "commit": _commit(),
            "host": _host(),
            "versions": {**_versions(), **self.versions},
            "results": asdict(self)["results"],
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print rows under a heading: numbers to three digits, right-aligned after the first column."""
    cells = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(f"{c:{'<' if i == 0 else '>'}{widths[i]}}" for i, c in enumerate(row))
        for row in cells
    ]
    above = [title] if title else []
    rule = "-" * len(lines[0])
    print("", *above, lines[0], rule, *lines[1:], sep="\n", flush=True)


def main(
    name: str, run: Callable[[Any, bool], Report], *, ranks: int = 1, pin: bool = True
) -> None:
    """`python -m benchmarks.NAME`: `run(comm, quick) -> Report` on `ranks` ranks, by mpirun.

    With `pin` each rank keeps to one core where there are enough of them.
    """
    options = parser(name).parse_args()
    if _STARTED not in os.environ:
        program = [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]
        command = [_mpirun(), "-n", str(ranks), *program]
        environment = {**os.environ, **_environment()}
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    cores = sorted(os.sched_getaffinity(0))
    if pin and 1 < comm.size <= len(cores):
        os.sched_setaffinity(0, {cores[comm.rank]})
    try:
        report = run(comm, options.quick)
    except Exception:
        traceback.print_exc()
        comm.Abort(1)
        raise
    report.versions["MPI"] = " ".join(re.split(r"[,\n]", MPI.Get_library_version())[0].split())
    if comm.rank == 0:
        report.print_targets()
        if options.json:
            report.save(options.json)


def parser(name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    quick = "few cases and short timings: does it run at all"
    found.add_argument("--quick", action="store_true", help=quick)
    results = "write the results as one JSON object"
    found.add_argument("--json", type=Path, metavar="FILE", help=results)
    return found


def _cell(value: Any) -> str:
    return f"{value:#.3g}".rstrip(".") if isinstance(value, float) else str(value)


def _verdict(result: Mapping[str, Any]) -> str:
    return "met" if result["ratio"] >= result["target"] else "MISSED"


def _mpirun() -> str:
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if not found:
        raise SystemExit('no mpirun beside this Python or on PATH: pip install "hpckit[mpich]"')
    return found


def _environment() -> dict[str, str]:
    """One thread per rank; Open MPI 4 and 5 start as root, and with more ranks than cores."""
    return {
        _STARTED: "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }


def _commit() -> str:
    with contextlib.suppress(OSError):
        command = ["git", "describe", "--always", "--dirty=+"]
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip()
    return ""


def _host() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
        if model:
            return f"{os.cpu_count()} cores {model[1]}"
    return f"{os.cpu_count()} cores {platform.machine()}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("hpckit", "numpy", "mpi4py", "numba", "h5py", "petsc4py", "ghex"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
