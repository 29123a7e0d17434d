"""Online against offline for networks that go on from fields, by torch.

Burgers: a Fourier neural operator from the field at the start to those of 16 later times, judged
by published trajectories (the second half of a training set of neuraloperator, whose start our
generator draws from the same law). E3, the combined equation of Brandstetter, Worrall & Welling: a
convolutional network from two fields to the next, judged by simulations of its own. Offline is
trained on 100 recorded simulations, for as many gradient steps. The numbers do not depend on the
machine's speed.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report, print_table
from hpckit.surrogate import Lockstep, Options, Reservoir, Study, Surrogate
from hpckit.surrogate.equations import Burgers, Combined
from hpckit.surrogate.metrics import relative_l2

_OFFLINE = 100  # simulations
_BURGERS = {"width": 32, "modes": 9, "where": False, "scalars": ("time",)}
_E3 = {"width": 32, "layers": 6, "scalars": ("alpha", "beta", "gamma", "time")}


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on any number of ranks)."""
    if not comm.bcast(importlib.util.find_spec("torch") is not None):
        if comm.rank == 0:
            print("operators: left out, there is no torch (make test-torch has one)")
        return
    path = Path(os.environ.get("HPCKIT_DATA", "data"), "burgers", "burgers_train_16.npz")
    if comm.bcast(path.exists()):
        burgers(comm, quick, report, path)
    elif comm.rank == 0:
        print(f"Burgers: left out, there is no {path}")
    combined(comm, quick, report)


def burgers(comm: Any, quick: bool, report: Report, path: Path) -> None:
    """Fourier neural operator; goal: 0.84 of the offline error, and 0.5 % at most."""
    published = np.load(path)["u"][400:]
    study = _study(
        comm,
        Burgers(shape=(64,), thin=4),
        "fno",
        "initial",
        3000 if not quick else 60,
        options=Options(rate=4e-3, halve_every=600, sizes=_BURGERS),
    )
    _compare(comm, study, "Burgers, fno", lambda s: _published(s, published), report, 1 / 0.84, 0.5)


def combined(comm: Any, quick: bool, report: Report) -> None:
    """Windows of E3; goal: 0.93 of the offline error."""
    study = _study(
        comm,
        Combined("E3", shape=(100,), thin=1, steps=51),
        "conv",
        "window:2",
        2000 if not quick else 60,
        batch=32,
        options=Options(rate=1e-3, halve_every=400, sizes=_E3),
    )
    _compare(comm, study, "E3, conv", None, report, 1 / 0.93, None)


def _study(comm: Any, solver: Any, model: str, view: str, steps: int, **changes: Any) -> Study:
    return Study(
        solver,
        model,
        view=view,
        buffer=Reservoir(6000, threshold=1000),
        schedule=Lockstep(16),
        steps=steps,
        validation=20,
        validate_every=steps,
        comm=comm,
        **changes,
    )


def _compare(
    comm: Any,
    study: Study,
    case: str,
    judge: Callable[[Surrogate], float] | None,
    report: Report,
    target: float,
    most: float | None,
) -> None:
    """Per cent of relative L2 error, online and offline."""
    with tempfile.TemporaryDirectory() as folder:
        tape = comm.bcast(Path(folder) / "tape")
        results = {"online": study.run()}
        study.record(tape, _OFFLINE)
        results["offline"] = study.train(tape)
        comm.Barrier()
    if comm.rank:
        return
    own = {name: each.history.scores[-1].mean for name, each in results.items()}
    rows, errors = [], own
    if judge:
        errors = {name: judge(each.surrogate) for name, each in results.items()}
    for name, each in results.items():
        rows.append((name, each.history.losses[-1], 100 * own[name], 100 * errors[name]))
    head = ("training", "last loss", "% of own", "% of those judged by")
    print_table(head, rows, f"{case}: relative L2 error")
    ratio = errors["offline"] / errors["online"]
    report.add(f"error, {case}", f"offline, {_OFFLINE} simulations", ratio, ratio, ratio, target)
    if most is not None:
        ratio = most / (100 * errors["online"])
        report.add(f"error online, {case}", f"{most} %", ratio, ratio, ratio, 1.0)


def _published(surrogate: Surrogate, trajectories: np.ndarray) -> float:
    """Mean relative L2 error of (n, 17, 16) trajectories by what is at their start."""
    unused = dict.fromkeys(surrogate.space.names, 0.5)
    errors = [
        relative_l2(
            trajectories[:, step],
            surrogate.predict(unused, 0.06 * step, {"u": trajectories[:, 0]})["u"],
        )
        for step in range(1, 17)
    ]
    return float(np.mean(errors))
