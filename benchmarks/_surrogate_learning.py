"""Online against offline: how well a network knows new simulations after equally many steps.

The paper's heat case on 32 x 32 cells, fully connected 6-256-256-1024, batches of 64, Adam from
1e-3, halved five times. Online: a reservoir that gets 16 new steps per gradient step, so that each
is drawn four times. Offline: 25, 100 or 250 simulations from a tape, in epochs. Units are made
normal by the same ranges, and all are judged by the same 50 simulations of their own. The numbers
do not depend on the machine's speed; the ratio is of the means over the seeds.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report, print_table
from hpckit.surrogate import Lockstep, Options, Reservoir, Study
from hpckit.surrogate.equations import Heat

_STEPS = 4000
_OFFLINE = (25, 100, 250)  # simulations
_SEEDS = (0, 1)
_RANGES = [*[(100, 500)] * 5, (0, 1), (100, 500)]  # temperatures, time, the field
_TARGET = 1 / 0.60  # of error offline with 100 simulations, over online
_ONLINE = "online"


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on any number of ranks)."""
    models = {"scikit-learn": "mlp"} | ({"torch": "fc"} if _has_torch(comm) else {})
    for library, model in models.items():
        errors = {name: np.array(each) for name, each in _errors(comm, model, quick).items()}
        if comm.rank == 0:
            _tell(report, library, errors)


def _errors(comm: Any, model: str, quick: bool) -> dict[str, list[tuple[float, float]]]:
    """Validation's mean squared error and mean relative L2, for each seed, of each training."""
    errors: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in _SEEDS:
            tape = comm.bcast(Path(folder) / str(seed))
            for name, score in _trainings(comm, model, seed, tape, quick):
                errors.setdefault(name, []).append((score.mse, score.mean))
        comm.Barrier()
    return errors


def _trainings(
    comm: Any, model: str, seed: int, tape: Path, quick: bool
) -> Iterator[tuple[str, Any]]:
    steps = _STEPS // 40 if quick else _STEPS
    study = Study(
        Heat(shape=(32, 32)),
        model,
        buffer=Reservoir(6000, threshold=1000),
        batch=64,
        lanes=4,
        schedule=Lockstep(16),
        steps=steps,
        validation=50,
        validate_every=steps,
        seed=seed,
        options=Options(rate=1e-3, halve_every=steps // 5),
        ranges=_RANGES,
        comm=comm,
    )
    yield _ONLINE, study.run().history.scores[-1]
    study.record(tape, _OFFLINE[-1])
    for simulations in _OFFLINE:
        yield _offline(simulations), study.train(tape, simulations).history.scores[-1]


def _tell(report: Report, library: str, errors: dict[str, np.ndarray]) -> None:
    online = errors[_ONLINE]
    rows = []
    for name, each in errors.items():
        mse, relative = each.mean(axis=0)
        rows.append((name, mse, *each[:, 0], relative, online[:, 0].mean() / mse))
    head = ("training", "MSE", *(f"seed {seed}" for seed in _SEEDS), "relative L2", "online / it")
    print_table(head, rows, f"learning, {library}: error of new simulations")
    for simulations in _OFFLINE:
        theirs = errors[_offline(simulations)]
        ratios = theirs[:, 0] / online[:, 0]
        ratio = theirs[:, 0].mean() / online[:, 0].mean()
        target = _TARGET if simulations == 100 else None
        case = f"error of new simulations, {library}"
        report.add(case, _offline(simulations), ratio, ratios.min(), ratios.max(), target)


def _offline(simulations: int) -> str:
    return f"offline, {simulations} simulations"


def _has_torch(comm: Any) -> bool:
    return comm.bcast(importlib.util.find_spec("torch") is not None)
