"""Heat against series and closed forms."""

import numpy as np
import pytest
from references import at_times, on_one_rank, reference, relative, thinned
from serial import alone, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.heat import Heat, ImplicitHeat

pytestmark = pytest.mark.mpi


def walls_of(case):
    x1, x2, y1, y2 = map(float, case["walls"])
    return [(x1, x2), (y1, y2)]


def between_walls(case, finer):
    """Its error on a grid so many times finer than the reference's."""
    n = 32 * finer
    heat = Heat(alone((n, n)), 1 / n, walls=walls_of(case))
    heat.set("temperature", case["ic"])
    computed = at_times(heat, "temperature", case["times"][:6])
    return relative(thinned(computed, finer, finer // 2), case["T"][:6])


def in_a_box(case, finer):
    n = 16 * finer
    grid = alone((n,) * 3, periodic=(False, False, True))
    lengths, modes = case["lengths"], case["modes"]
    spacing = tuple(float(length) / n for length in lengths)
    heat = Heat(grid, spacing, kappa=case["kappa"], walls=[0.0, "insulated", "insulated"])
    x, y, z = ((np.arange(n) + 0.5) * h for h in spacing)
    waves = (
        np.sin(np.pi * modes[0] * x / lengths[0])[:, None, None],
        np.cos(np.pi * modes[1] * y / lengths[1])[:, None],
        np.sin(2 * np.pi * modes[2] * z / lengths[2] + 0.3),
    )
    heat.set("temperature", waves[0] * waves[1] * waves[2])
    computed = at_times(heat, "temperature", case["times"][:3], safe=0.5)
    return relative(thinned(computed, finer, finer // 2), case["T"][:3])


@pytest.mark.parametrize(
    ("name", "error", "tolerance"),
    [("heat2d_walls", between_walls, 1.4e-3), ("heat3d_mixed", in_a_box, 3e-3)],
)
def test_against_the_reference_with_second_order(comm, name, error, tolerance):
    case = reference(name)
    errors = on_one_rank(comm, lambda: [error(case, finer) for finer in (1, 3)])
    assert errors[0] < tolerance
    assert 7 < errors[0] / errors[1] < 11  # cells are three times smaller


def test_other_walls_are_as_if_it_had_been_made_with_them(comm):
    first, then = [(1.0, 2.0), "insulated"], [("insulated", 3.0), 4.0]
    changed, made = (Heat(Grid(comm, (12, 13)), 0.1, walls=walls) for walls in (first, then))
    changed.step(changed.dt_max)
    changed.set_walls(then)
    for heat in (changed, made):
        heat.set("temperature", 1.5)
        for _ in range(3):
            heat.step(heat.dt_max)
    owned = made.grid.owned
    assert np.array_equal(changed.fields["temperature"][owned], made.fields["temperature"][owned])
    with pytest.raises(ConfigError, match="wall 'warm'"):
        made.set_walls("warm")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("periodic", [False, True, (True, False, False)])
@pytest.mark.parametrize("width", [1, (2, (1, 3), 1)])
def test_several_steps_at_once_have_the_same_bits(comm, periodic, width, dtype):
    shape = (11, 12, 13)
    whole = np.random.default_rng(1).standard_normal(shape)
    results = []
    for make in (alone, lambda shape, **options: Grid(comm, shape, **options)):
        grid = make(shape, periodic=periodic, width=width)
        heat = Heat(grid, 0.1, source=0.3, walls=["insulated", (1.0, -1.0), 2.0], dtype=dtype)
        heat.set("temperature", mine(grid, whole))
        for count in (3, 2):
            if grid.size > 1 or make is not alone:
                for _ in range(count):
                    heat.step(0.9 * heat.dt_max)
            else:
                heat.advance(0.9 * heat.dt_max, count)
        results.append((heat.fields["temperature"][grid.owned], heat.time))
    assert np.array_equal(mine(grid, results[0][0]), results[1][0])
    assert results[0][1] == results[1][1]


@pytest.mark.usefixtures("petsc")
def test_implicit_steps_between_four_walls(comm):
    case = reference("heat2d_walls")
    heat = ImplicitHeat(Grid(comm, (32, 32)), 1 / 32, walls=300.0)
    heat.set_walls(walls_of(case))
    heat.set("temperature", case["ic"])
    heat.advance(0.02, 50)
    error = heat.fields["temperature"][heat.grid.owned] - mine(heat.grid, case["T"][-1])
    squares = comm.allreduce(float((error**2).sum()))
    assert np.sqrt(squares) / np.linalg.norm(case["T"][-1]) < 1.4e-3
