"""A small study that several tests share: a wave that decays, whose steps tell who they are."""

from __future__ import annotations

import hashlib

import numpy as np

from hpckit.surrogate.buffers import Reservoir
from hpckit.surrogate.schedule import Lockstep
from hpckit.surrogate.space import Box
from hpckit.surrogate.study import Study


class Decay:
    """u and v decay at a rate that is a parameter, from an amplitude that is another."""

    space = Box(rate=(0.5, 2.0), amplitude=(1.0, 3.0))
    fields = {"u": (4, 3), "v": (5,)}  # noqa: RUF012
    steps = 6

    def run(self, parameters, comm):
        for step in range(self.steps):
            time = 0.2 * step
            decayed = parameters["amplitude"] * np.exp(-time * parameters["rate"])
            fields = {"u": decayed * np.arange(1.0, 13).reshape(4, 3), "v": np.full(5, -decayed)}
            yield time, fields


SMALL = {
    "buffer": Reservoir(60, threshold=20),
    "batch": 8,
    "lanes": 4,
    "schedule": Lockstep(3),
    "steps": 25,
    "validation": 5,
    "validate_every": 10,
    "seed": 3,
    "deadline": 60.0,
}


def mlp(shapes):
    """A network small enough for tests."""
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=1e-2)


def study(comm, solver=None, model=mlp, **changes):
    """A small study, with these arguments instead of its own."""
    return Study(solver or Decay(), model, comm=comm, **{**SMALL, **changes})


def digest(result):
    """The bits of what a study came to: losses, scores, and predictions of its surrogate."""
    history = result.history
    content = np.array(history.losses).tobytes() + np.array(history.scores).tobytes()
    return hashlib.sha256(content).hexdigest()
