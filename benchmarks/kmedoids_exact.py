"""Exact PAM and its start BUILD against PAM as published and the package kmedoids (Rust).

Everything runs on one core, on the same float32 distances of real data and from the same first
medoids. The peer gets the transposed matrix, the layout that its loops prefer. `swaps` and `BUILD`
are the phases alone, as hpckit's trace has them; `call` is the whole call with its checks and the
rounding to ticks, which the peer's has no counterpart of. PAM as published takes minutes: one round
of it is timed, and counted once for each round of fastpam1, which does the same swaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import _datasets
from benchmarks._harness import Report, Times, main, print_table
from hpckit import trace
from hpckit.cluster import fasterpam, pam
from hpckit.errors import ConfigError

SWAPS, BUILD, CALL = "pam, swaps", "pam, BUILD", "pam, call"
FAST_SWAPS, FAST_CALL = "fasterpam, swaps", "fasterpam, call"
FASTPAM1, PAM_BUILD, PAM = "fastpam1, M.T", "pam_build, M.T", "pam, M.T"
RATIOS = [(SWAPS, FASTPAM1, 10), (CALL, FASTPAM1, None), (BUILD, PAM_BUILD, 30)]
ORIGINAL = {100: 4000.0, 200: 10000.0}  # the paper's 458 and 1191, ours to be


class Way(NamedTuple):
    """A call, the phase of it that counts (None: all), and how many times its seconds count."""

    call: Callable[[], Any]
    phase: str | None = None
    times: int = 1

    def seconds(self, comm: Any) -> float:
        trace.enable(comm, events=False)
        begin = time.perf_counter()
        self.call()
        whole = time.perf_counter() - begin
        trace.disable()
        return self.times * (trace.seconds(self.phase) if self.phase else whole)


def ways(matrix: np.ndarray, k: int, original: bool) -> dict[str, Way]:
    """All ways to measure; raises `ConfigError` where the peer's PAM is not ours."""
    import kmedoids  # type: ignore[import-not-found]

    n = len(matrix)
    init = np.random.default_rng(0).permutation(n)[:k].astype(np.uint64)
    ours, theirs = pam(matrix, k, init=init), kmedoids.fastpam1(matrix.T, init, max_iter=n)
    if abs(ours.loss / theirs.loss - 1) > 1e-3:
        ends = f"{ours.loss} and {theirs.loss}"
        raise ConfigError(f"PAM of hpckit and of kmedoids end at losses {ends}")
    found = {
        SWAPS: Way(lambda: pam(matrix, k, init=init), "swaps"),
        CALL: Way(lambda: pam(matrix, k, init=init)),
        BUILD: Way(lambda: pam(matrix, k, init="build", max_iter=1), "init"),
        FASTPAM1: Way(lambda: kmedoids.fastpam1(matrix.T, init, max_iter=n)),
        PAM_BUILD: Way(lambda: kmedoids.pam_build(matrix.T, k)),
    }
    if original:
        found[FAST_SWAPS] = Way(lambda: fasterpam(matrix, k, init=init), "swaps")
        found[FAST_CALL] = Way(lambda: fasterpam(matrix, k, init=init))
        found[PAM] = Way(lambda: kmedoids.pam(matrix.T, init, max_iter=1), times=theirs.n_iter)
    return found


def measure(ways: dict[str, Way], comm: Any, seconds: float) -> dict[str, Times]:
    """Times of all ways, which take turns for about `seconds`, at least three times."""
    samples, end = [], time.perf_counter() + seconds
    while len(samples) < 3 or time.perf_counter() < end:
        samples.append([way.seconds(comm) for way in ways.values()])
    return {name: Times(column) for name, column in zip(ways, np.transpose(samples), strict=True)}


def run(comm: Any, quick: bool) -> Report:
    report = Report("kmedoids_exact")
    try:
        import kmedoids  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        print("skipped: the peer is not installed: pip install kmedoids")
        return report
    if not _datasets.FOLDER.is_dir():
        print(f"skipped: no {_datasets.FOLDER}: set HPCKIT_DATA")
        return report
    cases = [("leaves", _datasets.leaves, 100), ("leaves", _datasets.leaves, 200)]
    cases += [("optdigits", _datasets.optdigits, 100)]
    cases += [("half of letter", lambda: _datasets.letter()[::2], 100)]
    for name, points, k in cases[:1] if quick else cases:
        matrix = _datasets.euclidean(points())
        original = name == "leaves"
        times = measure(ways(matrix, k, original), comm, 3 if quick else 30)
        case = f"{name}, n = {len(matrix)}, k = {k}"
        print_table(("way", "s"), [(way, each.best) for way, each in times.items()], case)
        for ours, peer, target in RATIOS:
            report.add(f"{case}: {ours}", peer, *times[ours].ratio(times[peer]), target=target)
        if original:
            saved = times[FAST_SWAPS].ratio(times[PAM])
            report.add(f"{case}: {FAST_SWAPS}", PAM, *saved, target=ORIGINAL[k])
            for ours in (FAST_CALL, SWAPS, CALL):
                report.add(f"{case}: {ours}", PAM, *times[ours].ratio(times[PAM]))
    return report


if __name__ == "__main__":
    main("kmedoids_exact", run)
