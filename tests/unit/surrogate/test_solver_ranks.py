"""What ranks that only solve do not load: a node has many of them."""

JOB = """
import sys
from mpi4py import MPI
from hpckit.surrogate import Lockstep, Reservoir, Study
from hpckit.surrogate.equations import Heat

study = Study(
    Heat(shape=(8, 8), steps=5), "mlp", buffer=Reservoir(100, threshold=40), batch=16, steps=5,
    validation=2, validate_every=5, schedule=Lockstep(8), sampler="sobol",
)
study.run()
heavy = {"torch", "sklearn", "scipy", "h5py", "matplotlib"} & sys.modules.keys()
if not study.trains:
    print("loaded:", *sorted(heavy))
"""


def test_ranks_that_solve_load_no_library_of_trainers(mpirun):
    done = mpirun(2, "-c", JOB)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "loaded:", done.stdout
