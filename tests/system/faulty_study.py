"""A study in which one rank fails at a given moment: for `test_surrogate_faults.py`, a job each.

    mpirun -n 3 python tests/system/faulty_study.py FOLDER FAULT MOMENT

FAULT is "none", "solver killed", "trainer killed", "killed while saving", "solver stopped" or
"full"; MOMENT counts the steps that a rank has solved, or the trainer's gradient steps. The study
goes on with what is in the folder, and prints a digest of the weights at its end.
"""

import hashlib
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpckit import abort_on_exception
from hpckit.surrogate import Box, Lockstep, Reservoir, Study


class Decay:
    """A field that decays. `fault` is called with the number of each step that a rank solves."""

    space = Box(rate=(0.1, 2.0))
    fields = {"u": (8,)}  # noqa: RUF012
    steps = 5

    def __init__(self, fault=lambda step: None):
        self.fault = fault
        self.solved = 0

    def run(self, parameters, comm):
        for step in range(self.steps):
            self.solved += 1
            self.fault(self.solved)
            decayed = np.exp(-0.1 * step * parameters["rate"])
            yield 0.1 * step, {"u": decayed * np.arange(1.0, 9)}


class Linear:
    """y = A (x, 1), by steepest descent."""

    def __init__(self, shapes):
        self.matrix = np.zeros((shapes.outputs, shapes.inputs + 1))

    def partial_fit(self, x, y):
        inputs = np.c_[x, np.ones(len(x))]
        self.matrix -= 0.05 / len(x) * (inputs @ self.matrix.T - y).T @ inputs

    def predict(self, x):
        return np.c_[x, np.ones(len(x))] @ self.matrix.T


def run(comm, folder, fault, moment):
    """The digest of its weights; None on solver ranks."""

    def solved(step):
        if step == moment and fault == "solver killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == moment and fault == "solver stopped":
            os.kill(os.getpid(), signal.SIGSTOP)

    def each(study):
        done = study.training.done
        if done == moment and fault == "trainer killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if done == moment and fault == "killed while saving":
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
        if done == moment and fault == "full":  # as on a disk without room
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        if done % 4 == 0:
            study.save()

    study = Study(
        Decay(solved),
        Linear,
        buffer=Reservoir(100, threshold=20),
        batch=8,
        lanes=4,
        schedule=Lockstep(3),
        steps=40,
        validation=4,
        validate_every=20,
        folder=folder,
        deadline=1.0 if fault == "solver stopped" else 500.0,
        comm=comm,
    )
    result = study.run(resume=True, each=each)
    if result.surrogate is None:
        return None
    predicted = result.surrogate.predict({"rate": 1.0}, 0.2)["u"]
    return hashlib.sha256(predicted.tobytes() + bytes(result.history.losses)).hexdigest()


if __name__ == "__main__":
    world = MPI.COMM_WORLD
    abort_on_exception(world)
    place, what, when = sys.argv[1:]
    digest = run(world, Path(place), what, int(when))
    if digest:
        sys.stdout.write(f"{digest}\n")
