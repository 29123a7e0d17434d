"""Each solver in a whole bundle adjustment, beside the dense one."""

import math

import pytest
from bundle_scenes import BAL, OPENCV, RADIAL, ring
from mpi4py import MPI
from ring_system import RingSystem

from hpckit.errors import ConfigError
from hpckit.sfm import synthetic
from hpckit.sfm.bundle.adjust import bundle_adjust
from hpckit.sfm.bundle.priors import PositionPrior
from hpckit.sfm.bundle.solvers import SOLVERS, auto, pcg
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
    choice = choose(comm, _Problem(system), shape, room)
    assert choice.name == expected
    assert reason in choice.why
    assert len(set(comm.allgather(choice))) == 1


def test_auto_says_from_which_iterations_on_factors_are_the_quicker_way(comm):
    system = RingSystem(comm, cameras=150, points=600)
    shape = system.shape._replace(observations=2_000_000, ranks=4000)
    choice = choose(comm, _Problem(system), shape, 1e9)
    assert choice.name == "two_level" and 60 < choice.worth <= pcg.MOST
    assert choose(comm, _Problem(system), shape, 1e6).worth == math.inf


@pytest.fixture
def confident(monkeypatch):
    """`auto` thinks that conjugate gradients need hardly any iterations."""
    monkeypatch.setattr(auto, "_ITERATIONS", {"two_level": 1e-9, "pcg": 1e-9})


def _city(comm):
    return synthetic.city_blocks(comm, (1, 1), 30).start


def test_auto_leaves_conjugate_gradients_that_take_too_long(comm, confident):
    """Streets that hardly hang together: two_level needs hundreds of iterations a step."""
    expected = bundle_adjust(_city(comm), solver="sparse")
    found = bundle_adjust(_city(comm))
    linear = [step.linear_iterations for step in found.history]
    assert found.solver == "sparse" and "iterations of two_level" in found.why
    assert max(linear) < pcg.MOST and linear[-1] == 1
    assert found.cost == pytest.approx(expected.cost, rel=1e-5)


@pytest.mark.parametrize("after", [1, 6])
def test_auto_goes_on_as_it_was_when_resumed(comm, confident, shared_path, monkeypatch, after):
    """Before it left conjugate gradients, and after; where it would choose otherwise now, too."""
    whole = bundle_adjust(_city(comm), max_iterations=8)
    where = {"checkpoint": shared_path / "c"}
    stop = bundle_adjust(_city(comm), callback=lambda step: step.number == after, **where)
    assert stop.solver == ("two_level" if after == 1 else "sparse")
    monkeypatch.undo()
    rest = bundle_adjust(_city(comm), max_iterations=8, resume=True, **where)
    assert [step.cost for step in rest.history] == [step.cost for step in whole.history]


def test_auto_is_the_same_on_any_ranks_if_reproducible(comm, monkeypatch):
    seen = []
    monkeypatch.setattr(
        auto,
        "choose",
        lambda comm, problem, shape, room: seen.append(shape) or choose(comm, problem, shape, room),
    )
    for reproducible in (True, False):
        bundle_adjust(ring(comm), max_iterations=1, reproducible=reproducible)
    assert [shape.ranks for shape in seen] == [1, comm.size]
