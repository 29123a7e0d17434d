"""Each solver in a whole bundle adjustment, beside the dense one."""

import pytest
from bundle_scenes import BAL, OPENCV, RADIAL, ring
from mpi4py import MPI
from ring_system import RingSystem

from hpckit.errors import ConfigError
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.priors import PositionPrior
from hpckit.sfm.bundle.solvers import SOLVERS
from hpckit.sfm.bundle.solvers.auto import choose
from hpckit.sfm.projection import centres

OTHERS = ["sparse", "two_level", "petsc"]
SCENES = {
    "own cameras": ((BAL,) * 24, {}),
    "one camera": ((RADIAL,), {}),
    "two models": ((RADIAL, OPENCV), {"fix": {"poses": [1, 3]}}),
}


def chosen(name):
    """The solver, where it can be used."""
    if name == "petsc" and (reason := SOLVERS["petsc"].possible(None)):
        pytest.skip(reason)
    return name


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("scene", SCENES)
def test_same_optimum(comm, name, scene):
    cameras, options = SCENES[scene]
    results = [
        bundle_adjust(
            ring(comm, cameras, images=24, points=80), solver=solver, ftol=1e-10, **options
        )
        for solver in ("dense", chosen(name))
    ]
    assert results[1].solver == name
    assert results[1].cost == pytest.approx(results[0].cost, rel=1e-7)
    assert results[1].termination == "converged_f"


@pytest.mark.parametrize("name", ["sparse", "two_level"])
def test_priors(comm, name):
    costs = []
    for solver in ("dense", name):
        scene = ring(comm, images=24, points=80)
        where = centres(scene.images) + 0.1
        ids = scene.images.ids
        priors = [PositionPrior(i, c, 0.05) for i, c in zip(ids, where, strict=True)]
        costs.append(bundle_adjust(scene, solver=solver, ftol=1e-10, priors=priors).cost)
    assert costs[1] == pytest.approx(costs[0], rel=1e-7)


@pytest.mark.parametrize("name", ["sparse", "two_level"])
def test_same_bits_on_any_number_of_ranks(comm, name):
    found = []
    for ranks in (comm, MPI.COMM_SELF):
        scene = ring(ranks, (BAL,) * 24, images=24, points=80)
        result = bundle_adjust(scene, solver=name, reproducible=True, max_iterations=4)
        found.append((result.cost, scene.images.translation.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["sparse", "two_level"])
def test_poses_eliminated(comm, name):
    arguments = {"solver": name, "eliminate": "poses", "ftol": 1e-10}
    if name == "two_level":
        with pytest.raises(ConfigError, match="modes are those of poses"):
            bundle_adjust(ring(comm), **arguments)
        return
    expected = bundle_adjust(ring(comm), solver="dense", ftol=1e-10)
    found = bundle_adjust(ring(comm), **arguments)
    assert found.cost == pytest.approx(expected.cost, rel=1e-7)


class _Problem:
    """What `choose` asks of a problem."""

    def __init__(self, system):
        self.layout, self.table = system.layout, system.linearisation
        self.layout.columns = system.columns


@pytest.mark.parametrize(
    ("cameras", "room", "expected", "reason"),
    [
        (20, 1e9, "dense", "180 unknowns"),
        (150, 1e9, "sparse", "by sparse factors"),
        (150, 1e6, "two_level", "does not fit in memory"),
    ],
)
def test_auto(comm, cameras, room, expected, reason):
    system = RingSystem(comm, cameras=cameras, points=4 * cameras)
    shape = system.shape._replace(observations=10_000_000)
    name, why = choose(comm, _Problem(system), shape, room)
    assert name == expected
    assert reason in why
    assert len(set(comm.allgather((name, why)))) == 1
