"""Bundle adjustment on 1 to 8 ranks: the same street for all of them, and 100 images for each rank.

Seconds of the processor are those of the busiest rank, without what ranks wait for each other, so
that a machine with fewer cores than ranks shows how the work is divided, though not how long it
takes. The smallest of all rounds counts; numbers of ranks take turns.

    python -m benchmarks.sfm_growth
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from benchmarks._harness import Report, main, print_table
from hpckit.errors import meet
from hpckit.sfm import bundle_adjust, synthetic
from hpckit.sfm.bundle import sums

IMAGES, POINTS, ROUNDS = 400, 220, 3
EACH = 100  # images of each rank, where the street grows with them


def run(comm: Any, quick: bool) -> Report:
    report = Report("sfm_growth")
    images, each, rounds = (60, 30, 1) if quick else (IMAGES, EACH, ROUNDS)
    sizes = [n for n in (1, 2, 3, 4, 6, 8) if n <= comm.size]
    strong = seconds(comm, dict.fromkeys(sizes, images), rounds)
    weak = seconds(comm, {n: each * n for n in sizes}, rounds)
    if comm.rank == 0:
        for name, found in (("one street", strong), ("a street for each rank", weak)):
            rows = []
            for n, (spent, cost) in found.items():
                ideal = found[1][0] / (n if found is strong else 1)
                rows.append((n, spent, ideal / spent, f"{cost:.9g}"))
                report.add(f"{name}, {n} ranks", "1 rank", *[ideal / spent] * 3)
            print_table(("ranks", "CPU s", "efficiency", "cost"), rows, name)
    return report


def seconds(comm: Any, images: dict[int, int], rounds: int) -> dict[int, tuple[float, float]]:
    """By number of ranks: of the busiest one, the smallest of all rounds, and the final cost."""
    from mpi4py import MPI

    found = {n: (float("inf"), 0.0) for n in images}
    for turn in range(rounds + 1):  # the first is to warm up
        for n in images:
            part = comm.Split(comm.rank < n)
            spent = cost = 0.0
            if comm.rank < n:
                spent, cost = solve(synthetic.loop(part, images[n], POINTS).start)
            meet(comm)
            spent = comm.allreduce(spent, MPI.MAX)
            if turn:
                found[n] = min(found[n], (spent, cost))
            part.Free()
    return found


def solve(start: Any) -> tuple[float, float]:
    """Seconds of this rank's processor, sums over ranks left out, and the final cost."""
    waited = 0.0

    @contextlib.contextmanager
    def span(name: str, nbytes: int) -> Iterator[None]:
        nonlocal waited
        begin = time.process_time()
        yield
        waited += time.process_time() - begin

    kept, sums.span = sums.span, span
    try:
        begin = time.process_time()
        cost = bundle_adjust(start).cost
        return time.process_time() - begin - waited, cost
    finally:
        sums.span = kept


if __name__ == "__main__":
    main("sfm_growth", run, ranks=8)
