"""How low the losses are: FasterPAM, the package kmedoids (Rust), and methods for many points.

Two ranks, k = 100, euclidean distances. On real data all methods start from the same random
medoids, with ten seeds; a single run ends within about 0.05 % of their mean, hence the standard
errors. For a million points OneBatchPAM and FasterCLARA run at their defaults, and keep no
distances. Every ratio is above 1 where we are better: the other's mean loss over ours, and what is
allowed over what was taken, in seconds and in memory of all ranks together.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np

from benchmarks import _datasets
from benchmarks._harness import Report, geomean, main, print_table
from hpckit.cluster import clara, fasterpam, onebatch

try:
    import kmedoids  # type: ignore[import-not-found]
except ImportError:
    kmedoids = None

K, SEEDS, BATCH = 100, 10, 5000
FULL, PEER, SAMPLED = "fasterpam", "kmedoids", f"onebatch, m = {BATCH}"
ENOUGH, SAMPLED_ENOUGH, CLARA_ENOUGH = 1 / 1.0005, 1 / 1.01, 1 / 0.90  # smallest ratios
SECONDS, GIGABYTES = 60.0, 12.0


def million(comm: Any, n: int, report: Report) -> None:
    """Comes first: then the most memory that these processes ever had is that of this."""
    points, rows = _datasets.mixture(n), []
    for method in (onebatch, clara):
        comm.Barrier()
        begin = time.perf_counter()
        loss = method(points, K, metric="euclidean", memory="free", random_state=0, comm=comm).loss
        memory = comm.allreduce(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        rows.append((method.__name__, loss, time.perf_counter() - begin, memory * 1024e-9))
    if comm.rank == 0:
        print_table(("method", "loss", "s", "GB at most"), rows, f"n = {n}, k = {K}, d = 16")
        (_, ours, seconds, gigabytes), (_, theirs, _, _) = rows
        ratios = {
            "clara": (theirs / ours, CLARA_ENOUGH),
            f"{SECONDS:g} s": (SECONDS / seconds, 1.0),
            f"{GIGABYTES:g} GB": (GIGABYTES / gigabytes, 1.0),
        }
        for peer, (ratio, target) in ratios.items():
            _add(report, f"onebatch, n = {n}", peer, ratio, target if n == 10**6 else None)


def losses(comm: Any, points: np.ndarray, seeds: int) -> dict[str, np.ndarray]:
    """The losses of each method, one for each seed."""
    n, found = len(points), {}
    matrix = _datasets.euclidean(points).T if kmedoids and comm.rank == 0 else None
    for seed in range(seeds):
        init = np.random.default_rng(seed).permutation(n)[:K].astype(np.uint64)
        common = {"metric": "euclidean", "init": init, "comm": comm}
        found.setdefault(FULL, []).append(fasterpam(points, K, **common).loss)
        if n > BATCH:
            sampled = onebatch(points, K, batch=BATCH, random_state=seed, **common)
            found.setdefault(SAMPLED, []).append(sampled.loss)
        if matrix is not None:
            found.setdefault(PEER, []).append(kmedoids.fasterpam(matrix, init, n_cpu=1).loss)
    return {name: np.array(each) for name, each in found.items()}


def run(comm: Any, quick: bool) -> Report:
    report = Report("kmedoids_quality")
    million(comm, 20000 if quick else 10**6, report)
    if not _datasets.FOLDER.is_dir() or kmedoids is None:
        missing = f"{_datasets.FOLDER}: set HPCKIT_DATA"
        if kmedoids is None:
            missing = "the peer: pip install kmedoids"
        if comm.rank == 0:
            print(f"skipped: real data, without {missing}")
        return report
    sets = (_datasets.leaves, _datasets.optdigits, _datasets.letter)
    seeds = 2 if quick else SEEDS
    found = {data.__name__: losses(comm, data(), seeds) for data in sets[: 1 if quick else 3]}
    if comm.rank == 0:
        _report(report, found, ENOUGH if not quick else None)
    return report


def _report(report: Report, found: dict[str, dict[str, np.ndarray]], enough: float | None) -> None:
    rows = []
    for data, methods in found.items():
        for method, each in methods.items():
            error = each.std(ddof=1) / len(each) ** 0.5
            rows.append((data, method, f"{each.mean():.7g}", f"{error:.2g}", len(each)))
    print_table(("data", "method", "mean loss", "+-", "seeds"), rows, f"k = {K}")
    ratios = {data: methods[PEER].mean() / methods[FULL].mean() for data, methods in found.items()}
    for data, ratio in ratios.items():
        _add(report, f"{FULL}, {data}", PEER, ratio)
    _add(report, f"{FULL}, mean of {len(ratios)}", PEER, geomean(ratios.values()), enough)
    for data, methods in found.items():
        if SAMPLED in methods:
            ratio = methods[FULL].mean() / methods[SAMPLED].mean()
            _add(report, f"{SAMPLED}, {data}", FULL, ratio, SAMPLED_ENOUGH)


def _add(report: Report, case: str, peer: str, ratio: float, target: float | None = None) -> None:
    report.add(case, peer, ratio, ratio, ratio, target)


if __name__ == "__main__":
    main("kmedoids_quality", run, ranks=2)
