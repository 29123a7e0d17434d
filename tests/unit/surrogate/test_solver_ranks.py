"""What ranks that only solve do not load: a node has many of them."""

JOB = """
import sys
import numpy as np
from mpi4py import MPI
import hpckit.surrogate.equations
from hpckit.surrogate import Box, Lockstep, Reservoir, Study


class Decay:
    space = Box(rate=(0.1, 2.0))
    fields = {"u": (8,)}
    steps = 5

    def run(self, parameters, comm):
        for step in range(self.steps):
            yield step, {"u": np.full(8, np.exp(-step * parameters["rate"]))}


study = Study(
    Decay(), "mlp", buffer=Reservoir(100, threshold=40), batch=16, steps=5, validation=2,
    validate_every=5, schedule=Lockstep(8), sampler="sobol",
)
study.run()
if not study.trains:
    print("loaded:", *sorted({"torch", "sklearn", "h5py", "matplotlib"} & sys.modules.keys()))
"""


def test_ranks_that_solve_load_no_library_of_trainers(mpirun):
    done = mpirun(2, "-c", JOB)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "loaded:", done.stdout
