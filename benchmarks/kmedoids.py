"""FasterPAM and FasterMSC on one and two ranks against the package kmedoids (Rust) at its best.

Every way gets the same float32 distances, k = 100 and the same first medoids, and is timed as a
user calls it: ours includes its checks, rounding and distribution. The peer is called with the
matrix as NumPy stores it, and with its transpose, which is the layout that its loops prefer (the
matrix is symmetric, the result the same), each with one and with two threads; its default is the
first with two, and the quickest of the four is its best. Its FasterMSC has one thread only, and its
loss is 1 - ours. FasterPAM reads the matrix again and again, so that two ranks cannot be faster
than one by more than they are at that: both are timed as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._datasets import euclidean, mixture
from benchmarks._harness import Report, Times, interleaved, main, print_table
from hpckit.cluster import fastermsc, fasterpam, quantization
from hpckit.errors import ConfigError, meet

K = 100
ONE, TWO = "hpckit, 1 rank", "hpckit, 2 ranks"
PEER, BEST = "kmedoids, default call", "kmedoids, at its best"
PASSES = 4  # about as many as a search makes
READ_ONE, READ_TWO = (f"matrix read {PASSES} times, {ranks}" for ranks in ("1 rank", "2 ranks"))
TARGETS = {
    ("fasterpam", 10000): {PEER: 15.0, BEST: 3.0, ONE: 1.7},
    ("fasterpam", 20000): {PEER: 20.0, BEST: 3.0, ONE: 1.7},
}


def ways(
    comm: Any, search: Callable, n: int, losses: dict[str, float]
) -> dict[str, Callable[[], object]]:
    """Each way runs on all ranks at once; where it needs one only, the other ranks sleep."""
    import kmedoids  # type: ignore[import-not-found]

    matrix = euclidean(mixture(n))
    init = np.random.default_rng(1).permutation(n)[:K].astype(np.uint64)
    peer = getattr(kmedoids, search.__name__)
    threads = (1, comm.size) if search is fasterpam else (1,)
    own = matrix[comm.rank * n // comm.size : (comm.rank + 1) * n // comm.size]

    def alone(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            if comm.rank == 0:
                call()
            meet(comm)

        return run

    def found(name: str, call: Callable[[], Any]) -> Callable[[], None]:
        return lambda: losses.update({name: call().loss})

    def theirs(many: int, layout: str) -> Callable[[], None]:
        options = {"n_cpu": many} if search is fasterpam else {}
        given = matrix.T if layout == "M.T" else matrix
        return alone(found(_called(many, layout), lambda: peer(given, init, **options)))

    pairs = [(many, layout) for layout in ("M", "M.T") for many in threads]
    peers = {_called(*pair): theirs(*pair) for pair in pairs}
    return {
        ONE: alone(found(ONE, lambda: search(matrix, K, init=init))),
        TWO: found(TWO, lambda: search(matrix, K, init=init, comm=comm)),
        **peers,
        READ_ONE: alone(lambda: [quantization.largest(matrix) for _ in range(PASSES)]),
        READ_TWO: lambda: [quantization.largest(own) for _ in range(PASSES)],
    }


def _called(threads: int, layout: str) -> str:
    return f"kmedoids, {threads} thread{'s' * (threads > 1)}, {layout}"


def run(comm: Any, quick: bool) -> Report:
    report = Report("kmedoids")
    try:
        import kmedoids  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        if comm.rank == 0:
            print("skipped: the peer is not installed: pip install kmedoids")
        return report
    cases = [(fasterpam, 5000), (fasterpam, 10000), (fasterpam, 20000)]
    cases += [(fastermsc, 5000), (fastermsc, 10000)]
    for search, n in [(fasterpam, 2000), (fastermsc, 2000)] if quick else cases:
        losses: dict[str, float] = {}
        seconds, most = 1 if quick else 20, 3 if n > 10000 else 10
        times = interleaved(ways(comm, search, n, losses), seconds=seconds, comm=comm, most=most)
        if comm.rank == 0:
            _report(report, search.__name__, n, times, losses)
    return report


def _report(
    report: Report, search: str, n: int, times: dict[str, Times], losses: dict[str, float]
) -> None:
    if losses[ONE] != losses[TWO]:
        raise ConfigError(f"one and two ranks differ: loss {losses[ONE]} and {losses[TWO]}")
    rows = [(name, times[name].best, losses.get(name, "")) for name in times]
    repeats = times[ONE].samples.size
    title = f"{search}, n = {n}, k = {K}: smallest of {repeats}"
    print_table(("way", "s", "loss"), rows, title)
    targets = TARGETS.get((search, n), {})
    peers = [name for name in times if name.startswith("kmedoids")]
    default = max(name for name in peers if name.endswith(", M"))  # the one with most threads
    best = min(peers, key=lambda name: times[name].best)
    for peer, name in ((PEER, default), (BEST, best), (ONE, ONE)):
        case = f"{search}, n = {n}, 2 ranks"
        called = peer if name == ONE else f"{peer}: {name[10:]}"
        report.add(case, called, *times[TWO].ratio(times[name]), targets.get(peer))
    report.add(f"{search}, n = {n}, 1 rank", f"{BEST}: {best[10:]}", *times[ONE].ratio(times[best]))
    reading = times[READ_TWO].ratio(times[READ_ONE])
    report.add(f"matrix of n = {n}, read by 2 ranks", "by 1", *reading)


if __name__ == "__main__":
    main("kmedoids", run, ranks=2, pin=False)
