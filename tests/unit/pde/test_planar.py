"""Gray-Scott and advection in two dimensions: references, and the same bits on any ranks."""

import numpy as np
import pytest
from references import at_times, on_one_rank, reference, relative, thinned
from serial import alone, largest, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.advection import Advection, blob, swirl
from hpckit.pde.gray_scott import GrayScott, spots

pytestmark = pytest.mark.mpi
RING = {"periodic": True, "width": 3}


def reaction(n):
    """The larger error of the two fields at t = 200, of the reference's spots on n^2 points."""
    case = reference("gray_scott2d")
    length = case["length"]
    x = np.arange(n) * length / n
    solver = GrayScott(
        alone((n, n), **RING), length / n, feed=case["F"], kill=case["k"],
        diffusion=(case["Du"], case["Dv"]),
    )  # fmt: skip
    for name, values in zip("uv", spots(x[:, None], x, case["centres"], length), strict=True):
        solver.set(name, values)
    errors = []
    at_times(solver, "u", case["times"][:3])
    for name, exact in zip("uv", case["uv"][2], strict=True):
        found = solver.fields[name][solver.grid.owned][None]
        errors.append(relative(thinned(found, n // 32)[0], exact))
    return max(errors)


def wind(n):
    case = reference("advdiff2d_constant")
    x = np.arange(n) / n
    waves = (a * np.sin(2 * np.pi * (p * x[:, None] + q * x) + f) for p, q, a, f in case["modes"])
    velocity, kappa = case["velocity"].tolist(), case["kappa"]
    solver = Advection(alone((n, n), **RING), 1 / n, velocity=velocity, kappa=kappa)
    solver.set("concentration", sum(waves))
    found = at_times(solver, "concentration", case["times"])
    return relative(thinned(found, n // 48), case["c"])


def eddies(n):
    case = reference("advdiff2d_swirl")
    x = np.arange(n) / n
    velocity = swirl(x[:, None], x, case["amplitude"])
    solver = Advection(alone((n, n), **RING), 1 / n, velocity=velocity, kappa=case["kappa"])
    solver.set("concentration", blob(x[:, None], x))
    found = at_times(solver, "concentration", case["times"])
    return relative(thinned(found, n // 48), case["c"])


@pytest.mark.parametrize(
    ("error", "grids", "tolerance"),
    [(reaction, (32, 64), 5e-2), (wind, (48, 96), 1.5e-4), (eddies, (48, 96), 1e-5)],
)
def test_against_the_reference_with_fifth_order_or_more(comm, error, grids, tolerance):
    errors = on_one_rank(comm, lambda: [error(n) for n in grids])
    assert errors[0] < tolerance
    assert 25 < errors[0] / errors[1] < 90


def make(kind, grid, **numerics):
    """A solver and its fields' names; velocities of each rank's own box."""
    if kind == "gray_scott":
        return GrayScott(grid, (0.01, 0.02), feed=0.04, kill=0.06, **numerics), ("u", "v")
    velocity = np.random.default_rng(5).standard_normal((2, *grid.shape))
    velocity = [mine(grid, each) for each in velocity]
    return Advection(grid, (0.1, 0.2), velocity=velocity, kappa=0.1, **numerics), ("concentration",)


@pytest.mark.parametrize(
    ("method", "dtype"), [("auto", np.float64), ("packed", np.float32), ("direct", np.float64)]
)
@pytest.mark.parametrize("kind", ["gray_scott", "advection"])
@pytest.mark.parametrize("shape", [(23, 17), (7, 600)])
def test_ranks_threads_and_several_steps_give_the_same_bits(comm, kind, shape, method, dtype):
    whole = np.random.default_rng(1).random(shape)
    grids = alone(shape, **RING), Grid(comm, shape, **RING), Grid(comm, shape, **RING)
    results = []
    for grid, threads in zip(grids, (1, 1, 3), strict=True):
        solver, names = make(kind, grid, method=method, dtype=dtype, threads=threads)
        for name in names:
            solver.set(name, mine(grid, whole))
        if not results:
            solver.advance(0.9 * solver.dt_max, 2)
        else:
            for _ in range(2):
                solver.step(0.9 * solver.dt_max)
        results.append([solver.fields[name][grid.owned] for name in names])
    for serial, parallel, threaded in zip(*results, strict=True):
        assert serial.dtype == dtype
        assert np.array_equal(mine(grids[1], serial), parallel)
        assert np.array_equal(parallel, threaded)


def test_streaming_stores_give_the_same_bits(comm, monkeypatch):
    for kind in ("gray_scott", "advection"):
        results = []
        for streams in (0, 1):
            monkeypatch.setattr("hpckit.pde.solver.Solver._streams", lambda *_, s=streams: s)
            solver, names = make(kind, Grid(comm, (12, 640), **RING))
            for name in names:
                solver.set(name, np.random.default_rng(comm.rank).random(solver.grid.owned_shape()))
            solver.step(solver.dt_max)
            results.append([solver.fields[name][solver.grid.owned] for name in names])
        assert np.array_equal(*results)


def test_a_flow_keeps_what_it_carries_and_a_uniform_wind_what_is_uniform(comm):
    solver, _ = make("advection", Grid(comm, (20, 24), **RING))
    solver.set(
        "concentration", 1.0 + np.random.default_rng(comm.rank).random(solver.grid.owned_shape())
    )
    totals = []
    for _ in range(2):
        totals.append(comm.allreduce(solver.fields["concentration"][solver.grid.owned].sum()))
        for _ in range(3):
            solver.step(solver.dt_max)
    assert totals[1] == pytest.approx(totals[0], rel=1e-13)
    solver.change(velocity=(0.5, -1.0), kappa=0.1)
    solver.set("concentration", 7.3)
    solver.step(solver.dt_max)
    assert largest(comm, solver.fields["concentration"][solver.grid.owned] - 7.3) < 1e-14


def test_nothing_reacts_where_all_is_fed(comm):
    solver, _ = make("gray_scott", Grid(comm, (20, 24), **RING))
    solver.set("u", 1.0)
    solver.step(solver.dt_max)
    assert (solver.fields["u"][solver.grid.owned] == 1.0).all()
    assert (solver.fields["v"][solver.grid.owned] == 0.0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"velocity": (1.0,)}, "velocity has 1 components"),
        ({"velocity": (1.0, np.nan)}, "velocity has .* NaN"),
        ({"velocity": (1.0, np.zeros((2, 2)))}, "this rank owns"),
        ({"kappa": -1.0}, "kappa=-1.0 must be 0 or"),
    ],
)
def test_impossible_flows(comm, options, message):
    with pytest.raises(ConfigError, match=message):
        Advection(Grid(comm, (16, 16), **RING), 1.0, **({"velocity": (1, 1), "kappa": 0} | options))


def test_impossible_reactions(comm):
    grid = Grid(comm, (16, 16), **RING)
    with pytest.raises(ConfigError, match="feed=0 must be"):
        GrayScott(grid, 1.0, feed=0, kill=0.1)
    with pytest.raises(ConfigError, match="must be that of u and that of v"):
        GrayScott(grid, 1.0, feed=0.1, kill=0.1, diffusion=(1e-5,))
    with pytest.raises(ConfigError, match="needs a periodic grid of 2 dimensions"):
        GrayScott(Grid(comm, (16, 16), width=3), 1.0, feed=0.1, kill=0.1)
