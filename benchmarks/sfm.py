"""Bundle adjustment against pycolmap, Ceres, GTSAM, Theia and SciPy, and on two ranks against one.

All get the same start, the same first trust region and the same tolerance of the cost (1e-6; those
of the gradient and of the parameters are off), on one thread: a second one makes none of the peers
faster at these sizes. Numbers are seconds of the processor, building the problem included, reading
files not; of two ranks the larger, without what they wait for each other. Peers that are not
installed are left out: `pip install pycolmap gtsam pytheia`. Ceres is Debian's libceres-dev, a
library for plain x86-64 (SSE2), with the cost and the automatic derivatives of its own example,
compiled here for this processor: a Ceres that is built for it, with analytic derivatives, would be
faster.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _sfm, sfm_ceres
from benchmarks._harness import Report, Times, main, print_table
from hpckit import trace
from hpckit.errors import meet
from hpckit.sfm import bundle_adjust, read, synthetic, write
from hpckit.sfm.bundle.sums import SPAN

DATA = Path(os.environ.get("HPCKIT_DATA", "../shared/data")) / "sfm"
ONE, TWO = "hpckit, 1 rank", "hpckit, 2 ranks"
ROUNDS = 9
OPTIONS: dict[str, Any] = {"max_iterations": _sfm.ITERATIONS, "ftol": _sfm.TOLERANCE}
FILES = {  # of each problem: for BAL's readers, for COLMAP's
    "trafalgar-21": ("bal/trafalgar-problem-21-11315-pre.txt", "colmap-from-bal/trafalgar-21"),
    "ladybug-49": ("bal/ladybug-problem-49-7776-pre.txt", None),
    "libmv-03": (None, "cases/libmv/problem_03"),
}
TARGETS = {
    ("trafalgar-21", "pycolmap"): 5.0,
    ("trafalgar-21", "Ceres, dense"): 3.0,
    ("trafalgar-21", ONE): 1.7,
    ("ladybug-49", "Ceres, dense"): 3.0,
    ("ladybug-49", "SciPy"): 50.0,
    ("loop of 1000", "Ceres, sparse"): 3.0,
    ("loop of 1000", ONE): 1.7,
}

Way = Callable[[], tuple[float, float]]  # seconds of the processor, and the final cost


def run(comm: Any, quick: bool) -> Report:
    report = Report("sfm")
    trace.enable(comm, events=False)
    for name, (bal, colmap) in FILES.items():
        paths = [DATA / path if path else None for path in (bal, colmap)]
        if not all(path is None or path.exists() for path in paths):
            if comm.rank == 0:
                print(f"skipped: {name}: its files are not below {DATA}: set HPCKIT_DATA")
            continue
        compare(report, comm, name, *paths, rounds=2 if quick else ROUNDS, quick=quick)
    loop(report, comm, 100 if quick else 1000, 1 if quick else 3)
    return report


def compare(
    report: Report,
    comm: Any,
    name: str,
    bal: Path | None,
    colmap: Path | None,
    *,
    rounds: int,
    quick: bool,
) -> None:
    """One real problem, by all that read it."""
    ways = ours(comm, str(colmap or bal))
    if comm.rank == 0:
        ways |= peers(bal, colmap, quick)
    take_turns(report, comm, name, ways, rounds)


def loop(report: Report, comm: Any, images: int, rounds: int) -> None:
    """A long street that closes, by direct solvers; and iterations by two preconditioners."""
    from mpi4py import MPI

    alone = synthetic.loop(MPI.COMM_SELF, images).start
    shared = synthetic.loop(comm, images).start
    ways = {ONE: solving(alone), TWO: solving(shared)}
    with tempfile.TemporaryDirectory() as folder:
        if comm.rank == 0 and not sfm_ceres.missing():
            path = Path(folder) / "loop.txt"
            write(alone, path)
            ways["Ceres, sparse"] = ceres(path, "sparse")
        take_turns(report, comm, f"loop of {images}", ways, rounds)
    few = synthetic.loop(MPI.COMM_SELF, min(images, 200)).start
    if comm.rank == 0:
        iterations = {}
        for solver in ("pcg", "two_level"):
            found = bundle_adjust(copy.deepcopy(few), solver=solver, **OPTIONS)
            iterations[solver] = sum(step.linear_iterations for step in found.history)
        ratio = iterations["pcg"] / iterations["two_level"]
        report.add("iterations on a loop of 200, two-level", "Schur-Jacobi", *[ratio] * 3, 3.0)
    meet(comm)


def ours(comm: Any, path: str) -> dict[str, Way]:
    from mpi4py import MPI

    return {ONE: solving(read(path, MPI.COMM_SELF)), TWO: solving(read(path, comm))}


def solving(start: Any) -> Way:
    """Of a copy of the start, which all repeats need."""

    def way() -> tuple[float, float]:
        one, comm = start.comm, start.comm
        mine = type(start)(
            one,
            start.cameras.copy(),
            start.images.copy(),
            copy.deepcopy(start.points),
            start.observations,
            start.behind,
        )
        waited = trace.seconds(SPAN)
        begin = time.process_time()
        cost = bundle_adjust(mine, **OPTIONS).cost
        spent = time.process_time() - begin - (trace.seconds(SPAN) - waited) * (comm.size > 1)
        return spent, cost

    return way


def peers(bal: Path | None, colmap: Path | None, quick: bool) -> dict[str, Way]:
    """Those that are installed."""
    found: dict[str, Way] = {}
    if colmap:
        add(found, "pycolmap", lambda: _sfm.colmap(colmap))
    if bal:
        add(found, "GTSAM", lambda: _sfm.gtsam(bal))
        add(found, "Theia", lambda: _sfm.theia(bal))
        if not quick:
            add(found, "SciPy", lambda: _sfm.scipy(bal))
        if fault := sfm_ceres.missing():
            print(f"skipped: Ceres: {fault}")
        else:
            found |= {f"Ceres, {s}": ceres(bal, s) for s in ("dense", "iterative")}
    return found


def add(found: dict[str, Way], name: str, make: Callable[[], _sfm.Peer]) -> None:
    try:
        peer = make()
    except ImportError as error:
        print(f"skipped: {name}: {error}")
        return

    def way() -> tuple[float, float]:
        peer.prepare()
        begin = time.process_time()
        cost = peer.solve()
        return time.process_time() - begin, cost

    found[name] = way


def ceres(path: Path, solver: str) -> Way:
    program = sfm_ceres.build(Path(tempfile.gettempdir()) / f"hpckit-ceres-{os.getuid()}")
    options = {"threads": 1, "iterations": _sfm.ITERATIONS, "ftol": _sfm.TOLERANCE}

    def way() -> tuple[float, float]:
        said = sfm_ceres.solve(program, path, solver=solver, **options)
        return said["build_cpu_seconds"] + said["cpu_seconds"], said["cost"]

    return way


def take_turns(report: Report, comm: Any, case: str, ways: dict[str, Way], rounds: int) -> None:
    """Rank 0 takes all ways in turn; the others help where two ranks solve, and sleep else."""
    from mpi4py import MPI

    names = comm.bcast(list(ways))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, float] = {}
    slow: set[str] = set()
    for turn in range(rounds + 1):  # the first is to warm up
        for name in names:
            if name in slow and turn > 1:
                continue
            spent = 0.0
            if name == TWO or comm.rank == 0:
                spent, costs[name] = ways[name]()
            meet(comm)
            spent = comm.allreduce(spent, MPI.MAX)
            if spent > 5 and name not in (ONE, TWO):
                slow.add(name)  # it would take all the time
            if turn or name in slow:
                seconds[name].append(spent)
    if comm.rank == 0:
        times = {name: Times(np.array(all_of_it)) for name, all_of_it in seconds.items()}
        rows = [(name, times[name].best, f"{costs[name]:.7g}") for name in names]
        print_table(("way", "CPU s", "cost"), rows, case)
        for name in names:
            if name not in (ONE, TWO):
                report.add(case, name, *times[ONE].ratio(times[name]), TARGETS.get((case, name)))
        two = TARGETS.get((case, ONE))
        report.add(f"{case}, on 2 ranks", ONE, *times[TWO].ratio(times[ONE]), two)


if __name__ == "__main__":
    main("sfm", run, ranks=2)
