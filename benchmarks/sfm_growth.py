"""Bundle adjustment on 1 to 8 ranks: the same street for all of them, and 100 images for each rank.

Seconds of the processor are those of the busiest rank, without what ranks wait for each other, so
that a machine with fewer cores than ranks shows how the work is divided, though not how long it
takes. The smallest of all rounds counts; numbers of ranks take turns.

    python -m benchmarks.sfm_growth
"""

from __future__ import annotations

from typing import Any

from benchmarks._harness import Report, main, print_table
from benchmarks.sfm import solving
from hpckit import trace
from hpckit.errors import meet
from hpckit.sfm import synthetic

IMAGES, POINTS, ROUNDS = 400, 220, 3
EACH = 100  # images of each rank, where the street grows with them


def run(comm: Any, quick: bool) -> Report:
    report = Report("sfm_growth")
    trace.enable(comm, events=False)
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
                spent, cost = solving(synthetic.loop(part, images[n], POINTS).start)()
            meet(comm)
            spent = comm.allreduce(spent, MPI.MAX)
            if turn:
                found[n] = min(found[n], (spent, cost))
            part.Free()
    return found


if __name__ == "__main__":
    main("sfm_growth", run, ranks=8)
