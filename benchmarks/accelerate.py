"""Messages with derived datatypes between two ranks: `hpckit.accelerate` against plain MPI.

Each way is the same call, `Sendrecv` between the two ranks with the same datatype at both ends:
faces of a block of float64 with ghosts, in host memory, which each rank has just written. `packed`
always packs by our kernels; `auto`, which is what users get, where the model of the machine says
that it pays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import hpckit
from benchmarks._harness import Report, Times, geomean, interleaved, main, print_table


@dataclass(frozen=True)
class Case:
    """A face `width` cells wide, across an axis of a block of n³ cells with ghosts."""

    n: int
    width: int
    axis: int

    def box(self) -> tuple[list[int], list[int], list[int]]:
        """Sizes, subsizes and starts of the face."""
        w, n = self.width, self.n
        return [n + 2 * w] * 3, [w if k == self.axis else n for k in range(3)], [w] * 3

    @property
    def nbytes(self) -> int:
        return 8 * self.n**2 * self.width

    def __str__(self) -> str:
        return f"{self.n}^3, width {self.width}, axis {self.axis}"


def ways(comms: dict[str, Any], case: Case, sent: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same exchange by each communicator, into an array of its own."""
    from mpi4py import MPI

    face = MPI.DOUBLE.Create_subarray(*case.box()).Commit()
    other = 1 - comms["mpi"].rank

    def exchange(comm: Any, came: np.ndarray) -> None:
        comm.Sendrecv([sent, 1, face], other, 0, [came, 1, face], other, 0)

    received = {name: np.zeros_like(sent) for name in comms}
    for name, comm in comms.items():
        exchange(comm, received[name])
        if not np.array_equal(received[name], received["mpi"]):
            raise RuntimeError(f"{name} received other bytes than plain MPI: {case}")
    return {name: partial(exchange, comm, received[name]) for name, comm in comms.items()}


def sweep(quick: bool) -> Iterator[Case]:
    for case in itertools.product((32, 128) if quick else (16, 32, 64, 128, 256), (1, 2), range(3)):
        yield Case(*case)


def run(comm: Any, quick: bool) -> Report:
    report = Report("accelerate")
    comms = {
        "mpi": comm,
        "packed": hpckit.accelerate(comm, "packed"),
        "auto": hpckit.accelerate(comm),
    }
    cells: dict[Case, dict[str, Times]] = {}
    for case in sweep(quick):
        sent = np.random.default_rng(comm.rank).random(case.box()[0])
        cells[case] = interleaved(
            ways(comms, case, sent),
            seconds=0.1 if quick else 1.0,
            comm=comm,
            prepare=lambda _, sent=sent: np.negative(sent, out=sent),
        )
    if comm.rank == 0:
        rows = [
            (str(case), case.nbytes, *(1e6 * times[name].best for name in comms))
            for case, times in cells.items()
        ]
        print_table(("us, smallest of the repeats", "bytes", *comms), rows)
    for name in ("packed", "auto"):
        for case, times in cells.items():
            report.add(f"{name} {case}", "plain MPI", *times[name].ratio(times["mpi"]))
        for axis in range(3):
            ratios = [t["mpi"].best / t[name].best for c, t in cells.items() if c.axis == axis]
            bounds = geomean(ratios), min(ratios), max(ratios)
            report.add(f"{name} axis {axis}, mean", "plain MPI", *bounds)
    return report


if __name__ == "__main__":
    main("accelerate", run, ranks=2)
