"""Breed against uniform parameters: a field that is steep in one corner of its two parameters.

The corner is a sixteenth of the box. The same network is trained for equally many steps on as many
simulations; it is judged by simulations of their own, uniform in the box. The numbers do not depend
on the machine's speed; the ratio is of the means over the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks._harness import Report, print_table
from hpckit.surrogate import Box, Lockstep, Options, Reservoir, Study

_X = np.linspace(0, 1, 32)
_STEPS = 3000
_SEEDS = (0, 1)
_SAMPLERS = ("uniform", "breed")
_TARGETS = {"mean": 1 / 1.05, "p99": 1.0}  # of uniform's error over Breed's


class Corner:
    """Waves that grow where a and b are both large, on a smooth slope."""

    space = Box(a=(0, 1), b=(0, 1))
    fields = {"u": _X.shape}  # noqa: RUF012
    steps = 10

    def run(self, parameters: dict[str, float], comm: Any) -> Iterator[tuple[float, Any]]:
        a, b = parameters["a"], parameters["b"]
        steep = 1 / (1 + np.exp(-12 * (a + b - 1.6)))
        for t in np.arange(self.steps) / self.steps:
            waves = steep * np.sin(20 * _X * (a + b - 1) + 6 * t)
            yield float(t), {"u": 1 + 0.3 * a * _X + 0.2 * b * t + waves}


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on any number of ranks)."""
    steps = _STEPS // 30 if quick else _STEPS
    scores = {name: [_trained(comm, name, seed, steps) for seed in _SEEDS] for name in _SAMPLERS}
    if comm.rank == 0:
        _tell(report, scores)


def _trained(comm: Any, sampler: str, seed: int, steps: int) -> Any:
    """The validation's last score."""
    study = Study(
        Corner(),
        "mlp",
        buffer=Reservoir(2000, threshold=300),
        batch=64,
        lanes=4,
        schedule=Lockstep(4),
        sampler=sampler,
        steps=steps,
        validation=400,
        validate_every=steps,
        seed=seed,
        options=Options(rate=3e-3, halve_every=steps // 6, sizes={"hidden": (128, 128)}),
        comm=comm,
    )
    return study.run().history.scores[-1]


def _tell(report: Report, scores: dict[str, list[Any]]) -> None:
    rows = [
        (name, *(np.mean([getattr(score, kind) for score in of]) for kind in _TARGETS))
        for name, of in scores.items()
    ]
    print_table(("parameters", *_TARGETS), rows, "steering: relative L2 of new simulations")
    for kind, target in _TARGETS.items():
        uniform, breed = (
            np.array([getattr(score, kind) for score in scores[name]]) for name in _SAMPLERS
        )
        ratios = uniform / breed
        ratio = uniform.mean() / breed.mean()
        report.add(f"{kind} error, breed", "uniform", ratio, ratios.min(), ratios.max(), target)
