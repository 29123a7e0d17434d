"""The solvers that are here already: what they say of themselves, and the same on any ranks."""

import json

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.surrogate.equations import SOLVERS, Burgers, Combined, Heat
from hpckit.surrogate.solver import check_solver
from hpckit.surrogate.space import Uniform

SMALL = {
    "heat": {"shape": (12, 13), "steps": 3},
    "burgers": {"shape": (32,), "thin": 2, "steps": 3},
    "combined": {"shape": (24,), "thin": 2, "steps": 21, "case": "E2"},
    "gray_scott": {"shape": (24, 28), "thin": 2, "steps": 3, "dt": 1.0},
    "advection": {"shape": (24, 20), "steps": 3, "dt": 0.01},
}


def parameters(solver, simulation=0):
    return solver.space.dict(Uniform().bind(solver.space, 1).draw(simulation))


def results(solver, comm, simulations=(0,), steps=3):
    """Times and copies of fields, as rank 0 has them."""
    found = []
    for simulation in simulations:
        run = solver.run(parameters(solver, simulation), comm)
        for (time, fields), _ in zip(run, range(steps), strict=False):
            found.append((time, {name: np.array(field) for name, field in fields.items()}))
    return found


@pytest.mark.mpi
@pytest.mark.parametrize("name", SMALL)
def test_any_ranks_give_what_one_gives(comm, name):
    from mpi4py import MPI

    solver = SOLVERS[name](**SMALL[name])
    parallel = results(solver, comm)
    if comm.rank == 0:
        alone = results(solver, MPI.COMM_SELF)
        assert len(parallel) == len(alone) == 3
        for (one, fields), (other, expected) in zip(parallel, alone, strict=True):
            assert one == other
            for field, values in expected.items():
                assert np.array_equal(fields[field], values)


@pytest.mark.mpi
@pytest.mark.parametrize("name", SMALL)
def test_they_are_solvers(comm, name):
    from mpi4py import MPI

    solver = SOLVERS[name](**SMALL[name])
    check_solver(solver)
    json.dumps(solver.about)
    run = list(results(solver, MPI.COMM_SELF, steps=solver.steps + 1))
    assert len(run) == solver.steps
    assert (np.diff([time for time, _ in run]) > 0).all()
    for _, fields in run:
        assert {name: field.shape for name, field in fields.items()} == solver.fields
        assert all(np.isfinite(field).all() for field in fields.values())


@pytest.mark.mpi
@pytest.mark.parametrize("name", SMALL)
def test_several_at_once_and_one_after_the_other_are_the_same(comm, name):
    """A solver serves the next simulation after the end of one; those under way have their own."""
    steps = SMALL[name]["steps"]
    solver = SOLVERS[name](**SMALL[name])
    one, other = (results(SOLVERS[name](**SMALL[name]), comm, [i], steps)[-1] for i in (0, 1))
    after = results(solver, comm, [0, 1], steps)
    runs = [solver.run(parameters(solver, i), comm) for i in (0, 1)]
    for _ in range(steps):
        turns = [{k: np.array(v) for k, v in next(run)[1].items()} for run in runs]
    for field in solver.fields:
        assert np.array_equal(after[steps - 1][1][field], one[1][field])
        assert np.array_equal(after[-1][1][field], other[1][field])
        assert np.array_equal(turns[0][field], one[1][field])
        assert np.array_equal(turns[1][field], other[1][field])


@pytest.mark.mpi
def test_walls_of_heat_are_where_their_names_say(comm):
    from mpi4py import MPI

    walls = {"x1": 100.0, "x2": 200.0, "y1": 300.0, "y2": 400.0}
    *_, (_, fields) = Heat(shape=(12, 16), steps=100).run({"ic": 250.0, **walls}, MPI.COMM_SELF)
    edges = fields["temperature"][[0, -1, 6, 6], [8, 8, 0, -1]]
    assert np.argsort(edges).tolist() == [0, 1, 2, 3]
    assert np.abs(edges - [100, 200, 300, 400]).max() < 25


def test_initial_fields_of_burgers_have_the_spectrum_of_the_published_ones():
    """Mean squares of the waves' amplitudes, by the covariance; those of Li et al.'s set are so."""
    solver = Burgers(shape=(64,))
    x = np.arange(16) / 16
    fields = [solver.initial(parameters(solver, i), x) for i in range(800)]
    power = (np.abs(np.fft.rfft(fields) / 16) ** 2).mean(axis=0)
    assert power[0] < 1e-20
    published = [2.349e-2, 3.493e-4, 1.822e-5, 2.205e-6]  # of 800 trajectories
    np.testing.assert_allclose(power[1:5], published, rtol=0.15)


@pytest.mark.mpi
def test_forcing_of_the_combined_equation_is_at_the_points(comm):
    """The field grows at first by the forcing and what the equation makes of the start."""
    from mpi4py import MPI

    solver = Combined("E1", shape=(128,), thin=1, steps=4001)
    p = parameters(solver)
    (_, first), (dt, second), *_ = results(solver, MPI.COMM_SELF, steps=2)
    x, k = np.arange(128) / 8, 2 * np.pi / 16
    u, slope, force = np.zeros((3, 128))
    for j in range(1, 6):
        waves = min(int(p[f"l{j}"]), 2)
        angle = waves * k * x + p[f"phi{j}"]
        u += p[f"A{j}"] * np.sin(angle)
        slope += p[f"A{j}"] * waves * k * np.cos(angle)
    force = u - u * slope
    np.testing.assert_allclose(first["u"], u, atol=1e-14)
    np.testing.assert_allclose((second["u"] - first["u"]) / dt, force, atol=2e-3)


@pytest.mark.mpi
@pytest.mark.usefixtures("petsc")
def test_implicit_heat_changes_its_walls(comm):
    from mpi4py import MPI

    one, again = (Heat(shape=(8, 9), steps=2, implicit=True) for _ in range(2))
    parallel = results(one, comm, [0, 1], steps=2)
    if comm.rank == 0:
        serial = [results(again, MPI.COMM_SELF, [i], steps=2)[-1] for i in (0, 1)]
        for (_, fields), (_, expected) in zip(parallel[1::2], serial, strict=True):
            np.testing.assert_allclose(fields["temperature"], expected["temperature"], rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heat(shape=(32,)), "must be of 2 dimensions"),
        (lambda: Burgers(shape=(32,), thin=5), "thin = 5 divide it"),
        (lambda: Burgers(shape=(0,)), "must be of 1 dimension"),
        (lambda: Combined("E4"), "case 'E4' must be one of E1, E2, E3"),
        (lambda: Combined("E1", steps=1), "steps = 1 at least 2"),
    ],
)
def test_impossible_choices(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
