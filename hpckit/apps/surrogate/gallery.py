"""All pictures that results give, drawn into their folder; rank 0 only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpckit.apps.surrogate import pictures
from hpckit.apps.surrogate.pictures import Curve, Sample
from hpckit.apps.surrogate.results import Course, Outcome, Results

_NAMES = ("best", "median", "worst")


def draw(folder: Path, results: Results) -> list[Path]:
    """The files that were drawn."""
    trainings = results.trainings
    first = next(iter(trainings.values()))
    labels = {str(each.label): each for each in trainings.values()}
    files = [
        pictures.fields(folder / "fields.png", _samples(first), str(first.field)),
        pictures.learning(
            folder / "learning.png",
            {label: _curve(each) for label, each in labels.items()},
            results.ratio,
        ),
        pictures.along_time(
            folder / "times.png", first.times, {k: each.errors for k, each in labels.items()}
        ),
    ]
    return files + (_course(folder, results.course) if results.course else [])


def _course(folder: Path, course: Course) -> list[Path]:
    steps, population, unseen = course.buffer.T
    parts = course.seconds.T / max(course.seconds.sum(axis=1).max(), 1e-9)
    shares = {str(kind): part for kind, part in zip(course.kinds, parts, strict=True)}
    return [
        pictures.buffer(
            folder / "buffer.png", steps, population, unseen, int(course.capacity), course.reuse
        ),
        pictures.waiting(folder / "waiting.png", [str(each) for each in course.ranks], shares),
        pictures.drawn(
            folder / "parameters.png",
            [str(each) for each in course.names],
            course.parameters,
            course.limits,
        ),
    ]


def _samples(outcome: Outcome) -> list[Sample]:
    parts = (outcome.shown, outcome.shown_times, outcome.true, outcome.predicted)
    return [
        Sample(name, float(error), *rest) for name, error, *rest in zip(_NAMES, *parts, strict=True)
    ]


def _curve(outcome: Outcome) -> Curve:
    steps = np.arange(1, len(outcome.losses) + 1)
    return Curve(steps, outcome.losses, outcome.scores[:, 0], outcome.scores[:, -1])
