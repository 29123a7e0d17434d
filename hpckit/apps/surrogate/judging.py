"""What a surrogate is worth: its errors on validation simulations, and the ones to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.surrogate.metrics import relative_l2

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.surrogate import Surrogate

SHOWN = ("best", "median", "worst")
_BATCH = 256  # samples that are predicted at a time


class Judged(NamedTuple):
    """Of validation simulations; as in `results.Outcome`."""

    times: np.ndarray
    errors: np.ndarray
    shown: np.ndarray
    shown_times: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    field: np.ndarray


def judge(
    comm: MPI.Intracomm,
    surrogate: Surrogate,
    simulation: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> Judged | None:
    """Errors of all trainers' samples, on the first trainer; None on the others (collective).

    simulation : (n,) that a sample is of; x : (n, inputs), physical units; y : (n, outputs)
    """
    time = x[:, surrogate.space.size]
    order = np.lexsort((time, simulation))
    steps = int(np.bincount(np.unique(simulation, return_inverse=True)[1]).max(initial=1))
    order = order.reshape(-1, steps)
    errors = np.empty(order.shape)
    for i, rows in enumerate(order):
        errors[i] = relative_l2(y[rows], predicted(surrogate, x[rows]))
    found = comm.gather((time[order], errors))
    chosen = np.zeros((3, 2), np.int64)  # trainer, and which of its simulations
    if found is not None:
        chosen[:] = _choose([each for _, each in found])
    comm.Bcast(chosen)
    mine = {
        k: _look(surrogate, x[order[i]], y[order[i]], errors[i])
        for k, (trainer, i) in enumerate(chosen)
        if trainer == comm.rank
    }
    looks = comm.gather(mine)
    if found is None or looks is None:
        return None
    everything = {k: look for each in looks for k, look in each.items()}
    when, true, guess = (np.array([everything[k][i] for k in range(3)]) for i in range(3))
    times = np.concatenate([each for each, _ in found])
    return Judged(
        times[0],
        np.concatenate([each for _, each in found]),
        np.array([found[trainer][1][i].mean() for trainer, i in chosen]),
        when,
        true,
        guess,
        np.array(surrogate.fields.names[0]),
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


def _choose(errors: list[np.ndarray]) -> np.ndarray:
    """Trainer and number there of the best, the median and the worst simulation, (3, 2)."""
    places = np.array([(t, i) for t, each in enumerate(errors) for i in range(len(each))])
    order = np.argsort([errors[t][i].mean() for t, i in places], kind="stable")
    return places[order[[0, len(order) // 2, -1]]]


def _look(
    surrogate: Surrogate, x: np.ndarray, y: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, true and predicted first field of a simulation: all times of a line, else one."""
    fields = surrogate.fields
    shape, part = fields.shapes[0], fields.slices[0]
    rows = np.arange(len(x)) if len(shape) == 1 else errors.argmax(keepdims=True)
    both = (each[:, part].reshape(-1, *shape) for each in (y[rows], predicted(surrogate, x[rows])))
    return x[rows, surrogate.space.size], *both
