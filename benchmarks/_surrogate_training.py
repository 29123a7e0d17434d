"""What a trainer's time goes into, while the other rank solves: heat, a network of 256 x 256.

Utilisation is of wall time, so it falls where other programs take cores; the share of receiving is
of CPU time, which does not. Each sample is drawn 4 times on average: a reservoir reaches any
utilisation by drawing the same ones more often.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._harness import Report, print_table
from hpckit.surrogate import running
from hpckit.surrogate.clock import Clock
from hpckit.surrogate.equations import Heat
from hpckit.surrogate.schedule import Free, Lockstep
from hpckit.surrogate.study import Study

_SHAPES = ((32, 32), (64, 64))
_SCHEDULES = {"lockstep": Lockstep(16), "free": Free(reuse=4)}
_INTERVAL = 600.0  # seconds between checkpoints, by default


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on two ranks)."""
    steps, repeats = (20, 1) if quick else (200, 5)
    rows = []
    for shape in _SHAPES:
        for name, schedule in _SCHEDULES.items():
            walls, cpus = [], []
            for _ in range(repeats):
                walls.append(_seconds(comm, shape, schedule, steps, time.perf_counter))
                cpus.append(_seconds(comm, shape, schedule, steps, time.process_time))
            busy = np.array([each["training"] / _whole(each) for each in walls])
            cost = np.array([each["training"] / each["receiving"] for each in cpus])
            saving = np.array([_INTERVAL / each["saving"] for each in walls])
            case = f"{shape[0]} x {shape[1]}, {name}"
            rows.append((case, busy.max(), 100 / cost.max(), 1e3 * _INTERVAL / saving.max()))
            _add(report, f"{case}: utilisation of the trainer", "all of its time", busy, 0.85)
            _add(report, f"{case}: training / receiving, CPU time", "receiving", cost, 20.0)
            _add(report, f"{case}: checkpoint interval / checkpoint", "checkpoint", saving, 33.0)
    if comm.rank == 0:
        head = ("case", "utilisation", "receiving, % of CPU", "checkpoint, ms")
        print_table(head, rows, "one trainer, one solver")


def _seconds(
    comm: Any, shape: tuple[int, int], schedule: Any, steps: int, now: Callable[[], float]
) -> dict[str, float]:
    """The trainer's, of each kind of work, from the first gradient step to the last."""
    with tempfile.TemporaryDirectory() as folder:
        place = comm.bcast(folder)
        before: dict[str, float] = {}

        def each(study: Study) -> None:
            if study.training.done == 1:  # the buffer is filled, and validation solved
                before.update(study.training.clock.seconds)
            if study.training.done == steps:
                study.save()

        original = running.Clock
        running.Clock = functools.partial(Clock, now=now)
        try:
            study = Study(
                Heat(shape),
                "mlp",
                schedule=schedule,
                steps=steps,
                validation=0,
                folder=place,
                comm=comm,
            )
            seconds = study.run(each=each).ranks[0].seconds
        finally:
            running.Clock = original
        comm.Barrier()
    before = comm.bcast(before)
    return {kind: each - before.get(kind, 0.0) for kind, each in seconds.items()}


def _whole(seconds: dict[str, float]) -> float:
    """Without the checkpoint at the end, which stands for many hours."""
    return sum(seconds[kind] for kind in ("training", "receiving", "waiting"))


def _add(report: Report, case: str, peer: str, values: np.ndarray, target: float) -> None:
    report.add(case, peer, values.max(), values.min(), values.max(), target)
