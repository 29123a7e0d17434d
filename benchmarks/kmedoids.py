"""FasterPAM on one and two ranks against the package kmedoids (Rust) with as many threads.

Every way gets the same float32 distances, k = 100 and the same first medoids, and is timed as a user calls it: ours
includes its checks, the rounding to ticks and the distribution. The peer is called with the matrix as NumPy stores it,
and with its transpose, which is the layout that its loops prefer (the matrix is symmetric, the result the same).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._datasets import euclidean, mixture
from benchmarks._harness import Report, Times, interleaved, main, print_table
from hpckit.cluster import fasterpam
from hpckit.comm.system import meet
from hpckit.errors import ConfigError

K = 100
ONE, TWO, PEER, TRANSPOSED = "hpckit, 1 rank", "hpckit, 2 ranks", "kmedoids", "kmedoids, M.T"
TARGETS = {(10000, PEER): 15.0, (20000, PEER): 20.0, (10000, TRANSPOSED): 3.0, (20000, TRANSPOSED): 3.0}


def ways(comm: Any, n: int, losses: dict[str, float]) -> dict[str, Callable[[], None]]:
    """Each way runs on all ranks at once; where it needs one only, the other ranks sleep."""
    import kmedoids  # type: ignore[import-not-found]

    matrix = euclidean(mixture(n))
    init = np.random.default_rng(1).permutation(n)[:K].astype(np.uint64)

    def alone(name: str, call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            if comm.rank == 0:
                losses[name] = call().loss
            meet(comm)

        return run

    def together() -> None:
        losses[TWO] = fasterpam(matrix, K, init=init, comm=comm).loss

    return {
        ONE: alone(ONE, lambda: fasterpam(matrix, K, init=init)),
        TWO: together,
        PEER: alone(PEER, lambda: kmedoids.fasterpam(matrix, init, n_cpu=comm.size)),
        TRANSPOSED: alone(TRANSPOSED, lambda: kmedoids.fasterpam(matrix.T, init, n_cpu=comm.size)),
    }


def run(comm: Any, quick: bool) -> Report:
    report = Report("kmedoids")
    try:
        import kmedoids  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        if comm.rank == 0:
            print("skipped: the peer is not installed: pip install kmedoids")
        return report
    for n in (2000,) if quick else (5000, 10000, 20000):
        losses: dict[str, float] = {}
        times = interleaved(ways(comm, n, losses), seconds=1 if quick else 20, comm=comm, most=3 if n > 10000 else 10)
        if comm.rank == 0:
            _report(report, n, times, losses)
    return report


def _report(report: Report, n: int, times: dict[str, Times], losses: dict[str, float]) -> None:
    if losses[ONE] != losses[TWO]:
        raise ConfigError(f"one and two ranks differ: loss {losses[ONE]} and {losses[TWO]}")
    rows = [(name, times[name].best, losses[name]) for name in times]
    print_table(("way", "s", "loss"), rows, f"FasterPAM, n = {n}, k = {K}: smallest of {times[ONE].samples.size}")
    for peer in (PEER, TRANSPOSED):
        report.add(f"n = {n}, 2 ranks", peer, *times[TWO].ratio(times[peer]), target=TARGETS.get((n, peer)))
    report.add(f"n = {n}, 2 ranks", ONE, *times[TWO].ratio(times[ONE]), target=1.7 if n >= 10000 else None)


if __name__ == "__main__":
    main("kmedoids", run, ranks=2, pin=False)
