import math

import numpy as np
import pytest
from serial import alone, largest, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.shallow_water import GRAVITY, ShallowWater

pytestmark = pytest.mark.mpi


def centres(grid, d, h):
    return (np.arange(grid.start[d], grid.stop[d]) + 0.5) * h


def islands(shape):
    """Depths with land in many places, the same on all ranks."""
    return np.random.default_rng(5).uniform(-500, 2000, shape)


def hump(shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.exp(-((y - shape[0] / 2) ** 2 + (x - shape[1] / 3) ** 2) / 20)


def standing_wave(comm, n):
    """Error after five eighths of a period of a closed flat basin."""
    length, depth = 1000.0, 10.0
    water = ShallowWater(Grid(comm, (n, n)), depth, length / n, border="closed")
    k = math.pi / length
    mode = np.cos(k * centres(water.grid, 0, length / n))[:, None] * np.cos(
        k * centres(water.grid, 1, length / n)
    )
    water.set("eta", mode)
    omega = math.sqrt(2 * GRAVITY * depth) * k
    time = 0.625 * 2 * math.pi / omega
    steps = 2 * n
    for _ in range(steps):
        water.step(time / steps)
    return largest(comm, water.fields["eta"][water.grid.owned] - math.cos(omega * time) * mode)


def test_a_standing_wave_converges_with_second_order(comm):
    errors = [standing_wave(comm, n) for n in (8, 16)]
    assert errors[1] < 0.02
    assert 3.4 < errors[0] / errors[1] < 4.6


def test_a_wave_travels_with_the_square_root_of_g_times_depth(comm):
    """A quarter of the way around a channel; the largest stable step in 1-D is exact there."""
    n, h, depth = 32, 1000.0, 4000.0
    water = ShallowWater(Grid(comm, (8, n), periodic=True), depth, (1e6, h))
    speed = math.sqrt(GRAVITY * depth)
    k, x = 2 * math.pi / (n * h), centres(water.grid, 1, h)
    dt = n * h / 4 / speed / 12
    assert dt < water.dt_max
    shape = water.grid.owned_shape()
    water.set("eta", np.broadcast_to(np.cos(k * x), shape))
    water.set("hu", np.broadcast_to(speed * np.cos(k * (x - h / 2)), shape))
    for _ in range(12):
        water.step(dt)
    assert largest(comm, water.fields["eta"][water.grid.owned] - np.sin(k * x)) < 0.01


@pytest.mark.parametrize("options", [{"spacing": 1000.0}, {"spacing": 0.1, "south": 60.0}])
def test_a_closed_basin_keeps_its_water(comm, options):
    shape = (24, 31)
    grid = Grid(comm, shape)
    water = ShallowWater(grid, mine(grid, islands(shape)), border="closed", **options)
    water.set("eta", mine(grid, hump(shape)))
    before = water.volume()
    for _ in range(30):
        water.step(water.dt_max)
    assert before > 0
    assert water.volume() == pytest.approx(before, rel=1e-13)
    assert not water.fields["eta"][grid.owned][
        mine(grid, islands(shape)) <= 0
    ].any()  # dry land stays dry
    assert largest(comm, water.fields["eta"][grid.owned]) < 2


def test_a_lake_at_rest_stays_exactly_at_rest(comm):
    grid = Grid(comm, (20, 21))
    water = ShallowWater(grid, mine(grid, islands(grid.shape)), 50.0)
    for _ in range(5):
        water.step(water.dt_max)
    for name in ("eta", "hu", "hv", "peak"):
        assert not water.fields[name].any()
    assert np.isinf(water.fields["arrival"]).all()


def test_an_open_border_lets_the_waves_out(comm):
    shape = (30, 30)
    left = {}
    for border in ("open", "closed"):
        water = ShallowWater(Grid(comm, shape), 4000.0, 0.1, south=50.0, border=border)
        water.set("eta", mine(water.grid, hump(shape)))
        for _ in range(150):
            water.step(water.dt_max)
        left[border] = largest(comm, water.fields["eta"][water.grid.owned])
    assert left["open"] < 0.02 < 0.1 < left["closed"] < 1


@pytest.mark.parametrize("periodic", [(False, False), (False, True)])
@pytest.mark.parametrize(
    ("method", "dtype"), [("auto", np.float64), ("packed", np.float32), ("direct", np.float64)]
)
def test_ranks_and_threads_give_the_same_bits(comm, periodic, method, dtype):
    shape = (37, 700)
    results = []
    for make, threads in (
        (alone, 1),
        (lambda *a, **k: Grid(comm, *a, **k), 1),
        (lambda *a, **k: Grid(comm, *a, **k), 3),
    ):
        grid = make(shape, periodic=periodic)
        water = ShallowWater(
            grid,
            mine(grid, islands(shape)),
            0.1,
            south=45.0,
            dtype=dtype,
            threads=threads,
            method=method,
        )
        water.set("eta", mine(grid, hump(shape)))
        for _ in range(6):
            water.step(water.dt_max)
        results.append(
            (water.dt_max, {name: field[grid.owned] for name, field in water.fields.items()}, grid)
        )
    (limit, serial, _), *others = results
    for other_limit, fields, grid in others:
        assert other_limit == limit
        for name, field in fields.items():
            assert np.array_equal(mine(grid, serial[name]), field), name
    assert largest(comm, serial["hv"]) > 0


def test_peaks_and_arrivals(comm):
    """A plane wave between closed walls: it arrives when it should, at half its height."""
    n, h, depth = 60, 100.0, 10.0
    grid = Grid(comm, (6, n))
    water = ShallowWater(grid, depth, h, border="closed", threshold=0.2)
    x = centres(grid, 1, h)
    water.set("eta", np.broadcast_to(np.exp(-(((x - 1500) / 300) ** 2)), grid.owned_shape()))
    for _ in range(60):
        water.step(0.9 * water.dt_max)
    peak, arrival = (water.fields[name][grid.owned] for name in ("peak", "arrival"))
    far = (x > 3000) & (x < 3500)
    assert np.allclose(peak[:, far], 0.5, atol=0.02)
    front = x - 1500 - 300 * math.sqrt(math.log(0.5 / 0.2))
    expected = np.broadcast_to(front / math.sqrt(GRAVITY * depth), arrival.shape)
    assert np.allclose(arrival[:, far], expected[:, far], atol=2.5 * water.dt_max)
    assert np.isinf(arrival[:, x > 5800]).all()
    assert (peak >= water.fields["eta"][grid.owned]).all()


def test_a_restart_goes_on_as_if_nothing_had_happened(comm):
    shape = (18, 19)
    straight, first, second = (
        ShallowWater(Grid(comm, shape), mine(Grid(comm, shape), islands(shape)), 100.0)
        for _ in range(3)
    )
    dt = 0.8 * straight.dt_max
    for water, steps in ((straight, 8), (first, 5)):
        water.set("eta", mine(water.grid, hump(shape)))
        for _ in range(steps):
            water.step(dt)
    for name, field in first.fields.items():
        second.fields[name][second.grid.owned] = field[first.grid.owned]
    second.time = first.time
    for _ in range(3):
        second.step(dt)
    for name, field in straight.fields.items():
        assert np.array_equal(field[straight.grid.owned], second.fields[name][second.grid.owned]), (
            name
        )


@pytest.mark.parametrize(
    ("shape", "depth", "options", "message"),
    [
        ((8, 8, 8), 1.0, {}, "2 dimensions, not 3"),
        ((8, 8), 1.0, {"border": "leaky"}, "border 'leaky' must be one of open, closed"),
        ((8, 8), 1.0, {"south": 89.0}, "must lie within"),
        ((8, 8), 1.0, {"threshold": 0.0}, "threshold=0.0 must be"),
        ((8, 8), -1.0, {}, "no two neighbouring cells have water"),
        ((8, 8), np.nan, {}, "depth has 64 values that are NaN"),
    ],
)
def test_impossible_arguments(comm, shape, depth, options, message):
    with pytest.raises(ConfigError, match=message):
        ShallowWater(Grid(comm, shape), depth, 1.0, **options)


def test_beyond_the_limit(comm):
    water = ShallowWater(Grid(comm, (9, 9), periodic=True), 10.0, (3.0, 4.0))
    assert water.dt_max == pytest.approx(1 / math.sqrt(GRAVITY * 10 * (1 / 9 + 1 / 16)))
    with pytest.raises(ConfigError, match="is unstable"):
        water.step(1.01 * water.dt_max)
    with pytest.raises(ConfigError, match="same on both sides"):
        ShallowWater(Grid(comm, (9, 9), width=((1, 2), (1, 1))), 10.0, 1.0)
