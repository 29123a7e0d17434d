"""FasterPAM and FasterMSC on one and two ranks against the package kmedoids (Rust) with as many threads if it can.

Every way gets the same float32 distances, k = 100 and the same first medoids, and is timed as a user calls it: ours
includes its checks, rounding and distribution. The peer is called with the matrix as NumPy stores it,
and with its transpose, which is the layout that its loops prefer (the matrix is symmetric, the result the same). Its
FasterMSC has one thread only, and its loss is 1 - ours. FasterPAM reads the matrix again and again, so that two ranks
cannot be faster than one by more than they are at that: both are timed as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._datasets import euclidean, mixture
from benchmarks._harness import Report, Times, interleaved, main, print_table
from hpckit.cluster import _quant, fastermsc, fasterpam
from hpckit.comm.system import meet
from hpckit.errors import ConfigError

K = 100
ONE, TWO, PEER, TRANSPOSED = "hpckit, 1 rank", "hpckit, 2 ranks", "kmedoids", "kmedoids, M.T"
PASSES = 4  # about as many as a search makes
READ_ONE, READ_TWO = (f"matrix read {PASSES} times, {ranks}" for ranks in ("1 rank", "2 ranks"))
TARGETS = {
    ("fasterpam", 10000): {PEER: 15.0, TRANSPOSED: 3.0, ONE: 1.7},
    ("fasterpam", 20000): {PEER: 20.0, TRANSPOSED: 3.0, ONE: 1.7},
}


def ways(comm: Any, search: Callable, n: int, losses: dict[str, float]) -> dict[str, Callable[[], None]]:
    """Each way runs on all ranks at once; where it needs one only, the other ranks sleep."""
    import kmedoids  # type: ignore[import-not-found]

    matrix = euclidean(mixture(n))
    init = np.random.default_rng(1).permutation(n)[:K].astype(np.uint64)
    peer, threads = getattr(kmedoids, search.__name__), {"n_cpu": comm.size} if search is fasterpam else {}

    own = matrix[comm.rank * n // comm.size : (comm.rank + 1) * n // comm.size]

    def alone(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            if comm.rank == 0:
                call()
            meet(comm)

        return run

    def found(name: str, call: Callable[[], Any]) -> Callable[[], None]:
        return lambda: losses.update({name: call().loss})

    return {
        ONE: alone(found(ONE, lambda: search(matrix, K, init=init))),
        TWO: found(TWO, lambda: search(matrix, K, init=init, comm=comm)),
        PEER: alone(found(PEER, lambda: peer(matrix, init, **threads))),
        TRANSPOSED: alone(found(TRANSPOSED, lambda: peer(matrix.T, init, **threads))),
        READ_ONE: alone(lambda: [_quant.largest(matrix) for _ in range(PASSES)]),
        READ_TWO: lambda: [_quant.largest(own) for _ in range(PASSES)],
    }


def run(comm: Any, quick: bool) -> Report:
    report = Report("kmedoids")
    try:
        import kmedoids  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        if comm.rank == 0:
            print("skipped: the peer is not installed: pip install kmedoids")
        return report
    cases = [(fasterpam, 5000), (fasterpam, 10000), (fasterpam, 20000), (fastermsc, 5000), (fastermsc, 10000)]
    for search, n in [(fasterpam, 2000), (fastermsc, 2000)] if quick else cases:
        losses: dict[str, float] = {}
        seconds, most = 1 if quick else 20, 3 if n > 10000 else 10
        times = interleaved(ways(comm, search, n, losses), seconds=seconds, comm=comm, most=most)
        if comm.rank == 0:
            _report(report, search.__name__, n, times, losses)
    return report


def _report(report: Report, search: str, n: int, times: dict[str, Times], losses: dict[str, float]) -> None:
    if losses[ONE] != losses[TWO]:
        raise ConfigError(f"one and two ranks differ: loss {losses[ONE]} and {losses[TWO]}")
    rows = [(name, times[name].best, losses.get(name, "")) for name in times]
    print_table(("way", "s", "loss"), rows, f"{search}, n = {n}, k = {K}: smallest of {times[ONE].samples.size}")
    targets = TARGETS.get((search, n), {})
    for peer in (PEER, TRANSPOSED, ONE):
        report.add(f"{search}, n = {n}, 2 ranks", peer, *times[TWO].ratio(times[peer]), target=targets.get(peer))
    report.add(f"matrix of n = {n}, read by 2 ranks", "by 1", *times[READ_TWO].ratio(times[READ_ONE]))


if __name__ == "__main__":
    main("kmedoids", run, ranks=2, pin=False)
