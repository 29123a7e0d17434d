"""A tiny solver whose numbers say which simulation and step they are from."""

from __future__ import annotations

import numpy as np

from hpckit.surrogate.space import Box


class Counting:
    """Fields that hold 1000 * key + step, key a parameter from 0 to 1000; step counts from 1.

    fail : (step, given) -> what is yielded instead; yields : how often, whatever `steps` says
    """

    def __init__(self, steps=3, shape=(2, 3), fail=None, yields=None):
        self.space = Box(key=(0.0, 1000.0), other=(-1.0, 1.0))
        self.fields = {"u": shape, "v": (2,)}
        self.steps = steps
        self.fail = fail
        self.yields = steps if yields is None else yields

    def run(self, parameters, comm):
        for step in range(self.yields):
            value = 1000 * parameters["key"] + step + 1
            u = np.full(self.fields["u"], value if comm.rank == 0 else np.nan)
            given = 0.5 * (step + 1), {"v": np.float32([step, comm.size]), "u": u}
            yield self.fail(step, given) if self.fail else given


class Keys:
    """A sampler whose parameters are the number of the simulation."""

    def bind(self, box, seed):
        return self

    def draw(self, simulation):
        return np.array([simulation, 0.5])

    def validation(self, number):
        return np.array([500 + number, -0.5])
