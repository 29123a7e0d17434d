"""A small study that several tests share: waves that decay, and a network of few numbers."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
from mpi4py import MPI

from hpckit.errors import Checkpointed
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


class Linear:
    """An engine for any number of trainers: y = A (x, 1), by steepest descent."""

    def __init__(self, shapes, comm):
        self.shapes = shapes
        self.comm = comm
        self.matrix = np.zeros((shapes.outputs, shapes.inputs + 1))

    def step(self, x, y):
        inputs = np.c_[x, np.ones(len(x))]
        residuals = inputs @ self.matrix.T - y
        gradient = residuals.T @ inputs / len(x)
        total = np.empty_like(gradient)
        self.comm.Allreduce(gradient, total)
        self.matrix -= 0.05 / self.comm.size * total
        return np.square(residuals).mean(axis=1)

    def predict(self, x):
        return (np.c_[x, np.ones(len(x))] @ self.matrix.T).astype(np.float32)

    def finish(self):
        pass

    def state(self):
        return pickle.dumps(self.matrix)

    def restore(self, state):
        self.matrix = pickle.loads(state)

    def export(self):
        return pickle.dumps((self.shapes, self.matrix))

    def weights(self):
        return [self.matrix]

    def about(self):
        return {"library": "numpy"}


def load(exported):
    """`hpckit.surrogate.engine.load` for it."""
    shapes, matrix = pickle.loads(exported)
    engine = Linear(shapes, MPI.COMM_SELF)
    engine.matrix = matrix
    return engine


def make(model, shapes, comm, seed=0, options=None):
    """`hpckit.surrogate.engine.make` for it."""
    return Linear(shapes, comm)


SMALL = {
    "buffer": Reservoir(60, threshold=20),
    "batch": 8,
    "lanes": 4,
    "schedule": Lockstep(3),
    "steps": 25,
    "validation": 5,
    "validate_every": 10,
    "seed": 3,
    "deadline": 500.0,
}


def mlp(shapes):
    """A network small enough for tests."""
    from sklearn.neural_network import MLPRegressor

    return MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=1e-2)


def study(comm, solver=None, model=mlp, **changes):
    """A small study, with these arguments instead of its own."""
    return Study(solver or Decay(), model, comm=comm, **{**SMALL, **changes})


class Watch:
    """For `each`: the bits of the weights after each gradient step; stops after one of them."""

    def __init__(self, stop=None):
        self.digests = {}
        self._stop = stop

    def __call__(self, study):
        training = study.training
        weights = b"".join(each.tobytes() for each in training.engine.weights())
        self.digests[training.done] = hashlib.sha256(weights).hexdigest()
        if training.done == self._stop:
            study.save()
            raise Checkpointed(f"stopped after {self._stop}")


def outcome(result, watch):
    """Everything that must have the same bits wherever the study ran."""
    history = result.history
    steps = np.sum([rank.steps for rank in result.trainers], axis=0).tolist()
    counts = result.received, result.drawn, steps, [rank.left for rank in result.trainers]
    return list(history.losses), history.scores, counts, watch.digests[result.steps]
