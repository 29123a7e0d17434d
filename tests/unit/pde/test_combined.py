"""Burgers and the combined equation against independent solutions, and on any number of ranks."""

import os
from pathlib import Path

import numpy as np
import pytest
from references import at_times, on_one_rank, reference, relative, thinned
from serial import alone, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.burgers import Burgers, cole_hopf
from hpckit.pde.combined import Combined, Term, soliton

pytestmark = pytest.mark.mpi
DATA = Path(os.environ.get("HPCKIT_DATA", Path(__file__).parents[4] / "shared/data"))
PUBLISHED = DATA / "burgers/burgers_train_16.npz"
RING = {"periodic": True, "width": 3}


def computed(solver, u0, times):
    solver.set("u", u0)
    return at_times(solver, "u", times)


def points(n, length=1.0):
    return np.arange(n) * length / n


def burgers(n, u0, times, nu=0.01):
    solver = Burgers(alone((n,), **RING), 1 / n, nu=nu, speed=float(np.abs(u0).max()))
    return computed(solver, u0, times)


def sine(n):
    case = reference("burgers1d_sine")
    found = burgers(n, np.sin(2 * np.pi * points(n)), case["times"])
    return relative(thinned(found, n // 64), case["u"])


def random_waves(n):
    case = reference("burgers1d_random")
    waves = [a * np.sin(2 * np.pi * m * points(n) + p) for m, a, p in case["modes"]]
    found = burgers(n, case["scale"] * sum(waves), case["times"])
    return relative(thinned(found, n // 256), case["u"])


def combined(name, n):
    case = reference(f"combined_{name}")
    length, most = case["length"], float(np.abs(case["u"]).max())
    rows = zip(case["A"], case["omega"], case["l"], case["phi"], strict=True)
    x = points(n, length)
    u0 = sum(a * np.sin(2 * np.pi * m * x / length + p) for a, _, m, p in rows)
    rows = zip(case["A"], case["omega"], case["l"], case["phi"], strict=True)
    # The reference's points are half a cell to the left of the centres.
    forcing = [(a, omega, m, p - np.pi * m / n) for a, omega, m, p in rows]
    physics = {name: case[name] for name in ("alpha", "beta", "gamma")}
    grid = alone((n,), **RING)
    solver = Combined(grid, length / n, forcing=forcing, speed=most, **physics)
    return relative(computed(solver, u0, case["times"]), case["u"][:, :: case["u"].shape[1] // n])


def kdv(n):
    case = reference("kdv_soliton")
    x = points(n, case["length"]) - case["x0"]
    wave = {"speed": case["c"], "alpha": case["alpha"], "gamma": case["gamma"]}
    u0 = sum(soliton(x + image * case["length"], 0.0, **wave) for image in (-1, 0, 1))
    physics = {"alpha": case["alpha"], "gamma": case["gamma"], "speed": case["c"] / 2}
    solver = Combined(alone((n,), **RING), case["length"] / n, **physics)
    return relative(computed(solver, u0, case["times"]), case["u"][:, :: 256 // n])


@pytest.mark.parametrize(
    ("error", "grids", "tolerance", "ratio"),
    [
        (sine, (128, 256), 1e-4, (30, 90)),
        (random_waves, (256, 512), 3e-7, (25, 60)),
        (lambda n: combined("E1", n), (256, 512), 6e-5, (12, 40)),
        (lambda n: combined("E2", n), (256, 512), 2e-3, (20, 60)),
        (lambda n: combined("E3", n), (128, 256), 5e-3, (12, 40)),
        (kdv, (64, 128), 0.04, (12, 40)),
    ],
    ids=["burgers-sine", "burgers-random", "E1", "E2", "E3", "soliton"],
)
def test_against_the_reference_with_high_order(comm, error, grids, tolerance, ratio):
    """16 is fourth order, 32 fifth: that of dispersion and of the fluxes."""
    errors = on_one_rank(comm, lambda: [error(n) for n in grids])
    assert errors[0] < tolerance
    assert ratio[0] < errors[0] / errors[1] < ratio[1]


def test_a_shock_without_viscosity_in_the_mean(comm):
    case = reference("burgers1d_inviscid")

    def distances():
        found = []
        for n in (128, 384):
            x = (np.arange(n) + 0.5) / n
            u = burgers(n, np.sin(2 * np.pi * x), case["times"], nu=0.0)
            apart = np.abs(thinned(u, n // 128, n // 256) - case["u"]).mean(axis=1)
            found.append((apart, float(np.abs(u).max())))
        return found

    (coarse, most), (fine, _) = on_one_rank(comm, distances)
    after = case["times"] > case["shock_time"]
    assert coarse[~after].max() < 1e-5
    assert coarse[after].max() < 5e-3
    assert (fine[after] < coarse[after] / 2.5).all()
    assert most < 1.001  # no overshoot at the shock


def test_published_trajectories_of_burgers(comm):
    """Those of Li et al. (2021) on 16 points, solved from what their start says between them."""
    if not PUBLISHED.exists():
        pytest.skip(f"no {PUBLISHED}: set HPCKIT_DATA")
    with np.load(PUBLISHED) as file:
        given = file["u"][:20]

    def errors():
        n, found = 96, []
        for u in given:
            waves = np.fft.rfft(u[0])
            waves[-1] /= 2
            u0 = np.fft.irfft(waves, n) * (n / 16)
            again = burgers(n, u0, np.arange(17) * 0.06)
            found.append(relative(thinned(again, n // 16), u))
        return found

    found = on_one_rank(comm, errors)
    assert np.mean(found) < 2.5e-4
    assert max(found) < 1e-3


def test_cole_hopf_is_the_reference(comm):
    case = reference("burgers1d_sine")
    physics = {"nu": case["nu"], "amplitude": case["amplitude"], "wave_number": 2 * np.pi}
    for time, u in zip(case["times"], case["u"], strict=True):
        assert np.abs(cole_hopf(case["x"], time, **physics) - u).max() < 1e-12


@pytest.mark.parametrize(
    ("method", "dtype"), [("auto", np.float64), ("packed", np.float32), ("direct", np.float64)]
)
def test_ranks_threads_and_several_steps_give_the_same_bits(comm, method, dtype):
    shape = (61,)
    whole = np.random.default_rng(1).standard_normal(shape)
    forcing = [Term(0.3, 0.4, 1, 0.2), Term(-0.2, -0.3, 2, 1.0)]
    results = []
    for grid, threads in (
        (alone(shape, **RING), 1),
        (Grid(comm, shape, **RING), 1),
        (Grid(comm, shape, **RING), 3),
    ):
        solver = Combined(
            grid, 0.1, alpha=2.0, beta=0.1, gamma=0.05, forcing=forcing, speed=5.0,
            dtype=dtype, threads=threads, method=method,
        )  # fmt: skip
        solver.set("u", mine(grid, whole))
        if not results:
            solver.advance(0.9 * solver.dt_max, 3)
        else:
            for _ in range(3):
                solver.step(0.9 * solver.dt_max)
        results.append((solver.fields["u"][grid.owned], solver.time))
    serial, parallel, threaded = results
    assert serial[0].dtype == dtype
    assert np.array_equal(mine(grid, serial[0]), parallel[0])
    assert np.array_equal(parallel[0], threaded[0])
    assert serial[1] == parallel[1]


def test_large_arrays_take_several_lines(comm):
    """Longer than a kernel's scratch line, whose pieces share a face."""
    shape, results = (1300,), []
    whole = np.random.default_rng(2).standard_normal(shape)
    for grid in (alone(shape, **RING), Grid(comm, shape, **RING)):
        solver = Burgers(grid, 1.0, nu=0.1, speed=5.0)
        solver.set("u", mine(grid, whole))
        before = comm.allreduce(solver.fields["u"][grid.owned].sum())
        solver.step(solver.dt_max)
        after = comm.allreduce(solver.fields["u"][grid.owned].sum())
        assert after == pytest.approx(before, rel=1e-11)  # fluxes cancel
        results.append(solver.fields["u"][grid.owned])
    assert np.array_equal(mine(grid, results[0]), results[1])


def test_a_uniform_state_stays_exactly_so(comm):
    solver = Combined(Grid(comm, (24,), **RING), 0.3, beta=0.2, gamma=0.1, speed=8.0)
    solver.set("u", 0.5)
    for _ in range(3):
        solver.step(solver.dt_max)
    assert np.allclose(solver.fields["u"][solver.grid.owned], 0.5, rtol=1e-15)


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        ({"periodic": False}, {}, "needs a periodic grid of 1 dimension"),
        ({"shape": (12, 12)}, {}, "needs a periodic grid of 1 dimension"),
        ({"width": 2}, {}, "needs ghosts of 3 cells"),
        ({}, {"beta": -1.0}, "beta=-1.0 must be 0 or"),
        ({}, {"gamma": np.inf}, "gamma=inf must be 0 or"),
        ({}, {"speed": 0.0}, "speed=0.0 must be"),
        ({}, {"forcing": [(1.0, np.nan, 1, 0.0)]}, "four finite numbers"),
    ],
)
def test_impossible_arguments(comm, grid, options, message):
    made = Grid(comm, **({"shape": (16,)} | RING | grid))
    with pytest.raises(ConfigError, match=message):
        Combined(made, 1.0, **({"speed": 1.0} | options))


def test_coefficients_that_change(comm):
    grid = Grid(comm, (32,), **RING)
    first = {"alpha": 1.0, "beta": 0.1, "gamma": 0.0, "forcing": [(0.5, 0.1, 1, 0.3)], "speed": 2.0}
    then = {"alpha": 2.0, "beta": 0.2, "gamma": 0.1, "forcing": [(0.4, 0.2, 2, 0.1)], "speed": 3.0}
    changed, made = Combined(grid, 0.5, **first), Combined(grid, 0.5, **then)
    changed.step(changed.dt_max)
    changed.change(**then)
    changed.time = 0.0
    assert changed.dt_max == made.dt_max
    for solver in (changed, made):
        solver.set("u", 1.0)
        solver.step(solver.dt_max)
    assert np.array_equal(changed.fields["u"][grid.owned], made.fields["u"][grid.owned])
    with pytest.raises(ConfigError, match="0 terms of forcing, but the solver was made with 1"):
        changed.change(**(then | {"forcing": []}))
