"""Studies that train networks by torch: the same bits on any number of ranks, restarted or not."""

import numpy as np
import pytest
from mpi4py import MPI
from studies import Decay, Watch, outcome, study
from torch import nn

from hpckit.errors import Checkpointed
from hpckit.surrogate.engine import Options


def net(shapes):
    """With noise of its own."""
    return nn.Sequential(
        nn.Linear(shapes.inputs, 12), nn.Tanh(), nn.Dropout(0.1), nn.Linear(12, shapes.outputs)
    )


class Ring:
    """A periodic wave that turns."""

    space, steps, fields = Decay.space, 6, {"u": (8,)}

    def run(self, parameters, comm):
        at = 2 * np.pi * np.arange(8) / 8
        for step in range(self.steps):
            yield 0.1 * step, {"u": parameters["amplitude"] * np.cos(at - 0.3 * step)}


CASES = {
    "module": (Decay(), net, {"options": Options(rate=0.01, halve_every=7)}),
    "fno": (Ring(), "fno", {"view": "initial", "options": Options(sizes={"width": 4})}),
    "conv": (
        Ring(),
        "conv",
        {"view": "window:2", "options": Options(sizes={"width": 4, "noise": 0.01})},
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    solver, model, changes = CASES[request.param]
    return {"solver": solver, "model": model, **changes}


def test_one_trainer_has_the_same_bits_on_any_number_of_ranks_and_restarted(
    comm, shared_path, case
):
    folder = shared_path / "run"
    watch, first = Watch(), Watch(11)
    result = study(comm, **case).run(each=watch)
    with pytest.raises(Checkpointed):
        study(comm, folder=folder, **case).run(each=first)
    if comm.rank == 0:
        reference, again = Watch(), Watch()
        expected = outcome(study(MPI.COMM_SELF, **case).run(each=reference), reference)
        assert outcome(result, watch) == expected
        resumed = study(MPI.COMM_SELF, folder=folder, **case).run(each=again, resume=True)
        assert outcome(resumed, again) == expected
        assert len(set(reference.digests.values())) == result.steps == 25


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "options",
    [Options(), Options(local={"tau": 3}), Options(compress="bf16")],
    ids=["sums", "local", "compressed"],
)
def test_two_trainers_have_the_same_bits_on_any_number_of_solver_ranks(comm, options):
    changes = {"trainers": 2, "options": options, "model": net}
    result = study(comm, **changes).run()
    pair = comm.Split(comm.rank if comm.rank > 1 else 0, comm.rank)
    if comm.rank < 2:
        expected = study(pair, **changes).run()
        assert list(result.history.losses) == list(expected.history.losses)
        assert result.history.scores == expected.history.scores
    pair.Free()


PREDICT = """
import sys
import numpy as np
from hpckit.surrogate.surrogate import Surrogate
surrogate = Surrogate.load(sys.argv[1])
u = surrogate.predict({"rate": 1.0, "amplitude": 2.0}, 0.3, {"u": np.ones(8)})["u"]
print(u.tobytes().hex())
"""


def test_the_surrogate_predicts_in_a_new_process(mpirun, tmp_path):
    solver, model, changes = CASES["fno"]
    result = study(MPI.COMM_SELF, solver, model, folder=tmp_path, **changes).run()
    u = result.surrogate.predict({"rate": 1.0, "amplitude": 2.0}, 0.3, {"u": np.ones(8)})["u"]
    ran = mpirun(None, "-c", PREDICT, tmp_path)
    assert ran.stdout.strip() == u.tobytes().hex()


WHO_IMPORTS = """
import sys
import numpy as np
from mpi4py import MPI
from hpckit.surrogate import Box, Lockstep, Reservoir, Study


class Decay:
    space, fields, steps = Box(rate=(0.5, 2.0)), {"u": (8,)}, 6

    def run(self, parameters, comm):
        for step in range(self.steps):
            yield 0.1 * step, {"u": np.full(8, np.exp(-0.1 * step * parameters["rate"]))}


small = {"buffer": Reservoir(60, threshold=20), "batch": 8, "lanes": 4, "schedule": Lockstep(3)}
Study(Decay(), "fc", **small, steps=10, validation=2, validate_every=5).run()
heavy = {"torch", "sklearn", "scipy"} & {*sys.modules}
print(MPI.COMM_WORLD.rank, "torch" in heavy, len(heavy), flush=True)
"""


def test_ranks_that_solve_import_no_torch(mpirun):
    ran = mpirun(2, "-c", WHO_IMPORTS)
    lines = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines())
    assert ran.returncode == 0 and lines["0"].startswith("True") and lines["1"] == "False 0"
    assert len(lines) == 2  # nothing else was said
