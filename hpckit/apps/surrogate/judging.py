"""What a surrogate is worth: its errors on validation simulations, and the ones to look at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.surrogate.metrics import relative_l2

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.surrogate import Surrogate
    from hpckit.surrogate.validation import Validation

_BATCH = 256  # samples that are predicted at a time


class Look(NamedTuple):
    """The first field of a validation simulation: times (t,), true and predicted (t, ...)."""

    times: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


class Judged(NamedTuple):
    """Of all validation simulations: times (steps,) and relative errors (simulations, steps).

    looks : at the best, the median and the worst, in the mean over their steps; shown : these means
    """

    times: np.ndarray
    errors: np.ndarray
    shown: np.ndarray
    looks: list[Look]


def judge(comm: MPI.Intracomm, surrogate: Surrogate, validation: Validation) -> Judged | None:
    """Of all trainers' samples, on the first trainer; None on the others (collective)."""
    mine = list(_simulations(validation))
    times, errors = [], []
    for x, y in mine:
        times.append(x[:, surrogate.space.size])
        errors.append(relative_l2(y, predicted(surrogate, x)))
    everyone: list[list[np.ndarray]] = comm.allgather(errors)
    chosen = _choose(everyone)
    looks = comm.gather(
        [_look(surrogate, *mine[i], errors[i]) if t == comm.rank else None for t, i in chosen]
    )
    if looks is None:
        return None
    return Judged(
        times[0],
        np.concatenate(everyone),
        np.array([everyone[t][i].mean() for t, i in chosen]),
        [next(filter(None, each)) for each in zip(*looks, strict=True)],
    )


def predicted(surrogate: Surrogate, x: np.ndarray) -> np.ndarray:
    """(n, outputs), of samples (n, inputs) in physical units."""
    parts = [_predicted(surrogate, x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)]
    return np.concatenate(parts)


def _predicted(surrogate: Surrogate, x: np.ndarray) -> np.ndarray:
    names, n = surrogate.space.names, len(x)
    history = None
    if surrogate.history:
        known = x[:, len(names) + 1 :].reshape(n, surrogate.history, -1)
        history = surrogate.fields.unpack(known if surrogate.history > 1 else known[:, 0])
    parameters = dict(zip(names, x.T, strict=False))
    found = surrogate.predict(parameters, x[:, len(names)], history)
    return np.concatenate([field.reshape(n, -1) for field in found.values()], axis=1)


def _simulations(validation: Validation) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x and y, in physical units, of each simulation's samples, in the order of their times."""
    number = validation.columns["simulation"][: validation.samples]
    for each in np.unique(number)[::-1]:  # they are -1, -2, ...
        rows = np.flatnonzero(number == each)
        x, y = validation.view.gather({k: v[rows] for k, v in validation.columns.items()})
        yield x.copy(), y.copy()


def _choose(errors: list[list[np.ndarray]]) -> list[tuple[int, int]]:
    """Trainer, and number there, of the best, the median and the worst simulation."""
    places = [(t, i) for t, each in enumerate(errors) for i in range(len(each))]
    places.sort(key=lambda place: errors[place[0]][place[1]].mean())
    return [places[0], places[len(places) // 2], places[-1]]


def _look(surrogate: Surrogate, x: np.ndarray, y: np.ndarray, errors: np.ndarray) -> Look:
    """At all times of a field on a line, else at the one with the largest error."""
    shape, part = surrogate.fields.shapes[0], surrogate.fields.slices[0]
    rows = np.arange(len(x)) if len(shape) == 1 else errors.argmax(keepdims=True)
    true = y[rows, part].reshape(-1, *shape)
    guess = predicted(surrogate, x[rows])[:, part].reshape(-1, *shape)
    return Look(x[rows, surrogate.space.size], true, guess)
