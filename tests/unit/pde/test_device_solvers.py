"""Solvers on a device give the bits that they give on the host, on any number of ranks."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest

from hpckit.comm.device import HOST
from hpckit.comm.grid import Grid
from hpckit.comm.places import open_device
from hpckit.comm.stand_in import census
from hpckit.errors import ConfigError
from hpckit.halo import Halo
from hpckit.pde import Heat, ImplicitHeat, ShallowWater

DTYPES = ["float64", "float32"]


@pytest.fixture
def places(comm):
    return HOST, open_device(comm, "stand-in")


def assert_same_bits(here, there):
    """Of the owned cells of all fields of two solvers."""
    assert here.time == there.time
    for name, field in here.fields.items():
        one, other = (np.ascontiguousarray(a[here.grid.owned]) for a in (field, there.fields[name]))
        np.testing.assert_array_equal(
            one.view(f"u{one.itemsize}"), other.view(f"u{one.itemsize}"), err_msg=name
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(37,), (19, 23), (9, 11, 300)])
def test_heat(comm, places, shape, periodic, dtype):
    solvers = []
    for place in places:
        heat = Heat(
            Grid(comm, shape, periodic=periodic),
            1 / shape[0],
            source=0.5,
            walls=[(0.25, "insulated")] * len(shape),
            dtype=dtype,
            place=place,
        )
        draw = np.random.default_rng(comm.rank)
        heat.set("temperature", draw.uniform(-1, 1, heat.grid.owned_shape()))
        heat.advance(0.9 * heat.dt_max, 5)
        heat.step(0.5 * heat.dt_max)
        solvers.append(heat)
    assert_same_bits(*solvers)


def test_walls_may_change_between_steps(comm, places):
    solvers = []
    for place in places:
        heat = Heat(Grid(comm, (12, 14)), 1 / 12, place=place)
        heat.step(heat.dt_max)
        heat.set_walls([(1.0, 3.0), "insulated"])
        heat.advance(heat.dt_max, 3)
        solvers.append(heat)
    assert_same_bits(*solvers)
    assert comm.allreduce(solvers[1].fields["temperature"].max()) > 0


@pytest.mark.parametrize("method", ["staged", "peer", "oneshot"])
def test_any_method(comm, places, method):
    solvers = []
    for place, how in zip(places, ("packed", method), strict=True):
        heat = Heat(Grid(comm, (12, 14), periodic=True), 1, kappa=0.1, method=how, place=place)
        heat.set("temperature", np.random.default_rng(3).uniform(size=heat.grid.owned_shape()))
        heat.advance(np.float32(1), 4)  # no Python float, as dt may be
        heat.step(1)
        solvers.append(heat)
    assert solvers[1].halo.method == method
    assert_same_bits(*solvers)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("south", [None, 30.0])
@pytest.mark.parametrize("border", ["open", "closed", "periodic"])
def test_shallow_water(comm, places, border, south, dtype):
    solvers = []
    for place in places:
        grid = Grid(comm, (21, 27), periodic=(False, border == "periodic"))
        rows, columns = (np.arange(a, b) for a, b in zip(grid.start, grid.stop, strict=True))
        water = ShallowWater(
            grid,
            120 * np.sin(rows[:, None] / 5) + 3 * columns - 40,
            500.0 if south is None else 0.01,
            south=south,
            border="closed" if border == "closed" else "open",
            threshold=0.02,
            dtype=dtype,
            place=place,
        )
        water.set("eta", np.exp(-((rows[:, None] - 10) ** 2 + (columns - 12) ** 2) / 9))
        for _ in range(12):
            water.step(0.9 * water.dt_max)
        solvers.append(water)
    assert_same_bits(*solvers)
    assert solvers[0].volume() == solvers[1].volume()
    assert comm.allreduce(int(np.isfinite(solvers[1].fields["arrival"]).sum())) > 20


def test_nan_is_seen(comm, places):
    for place in places:
        heat = Heat(Grid(comm, (12, 14)), 1 / 12, place=place)
        heat.step(heat.dt_max)
        assert not heat.has_nan()
        with heat.changing() as fields:
            fields["temperature"][0] = math.nan  # a ghost
        assert not heat.has_nan()
        with heat.changing() as fields:
            fields["temperature"][heat.grid.owned][-1, -1] = math.nan
        assert heat.has_nan()


def test_what_has_no_kernels_is_refused(comm, places):
    grid = Grid(comm, (12, 14))
    with pytest.raises(ConfigError, match="threads=2, but steps run on a device: use threads=1"):
        Heat(grid, 1 / 12, threads=2, place=places[1])
    with pytest.raises(ConfigError, match="implicit steps run on CPUs only: use Heat on a device"):
        ImplicitHeat(grid, 1 / 12, place=places[1])
    with pytest.raises(ConfigError, match=r"place='cuda' must be a device, as hpckit.device\("):
        Heat(grid, 1 / 12, place="cuda")
    with pytest.raises(ConfigError, match="values that are NaN or infinite"):
        Heat(grid, 1 / 12, place=places[1]).set("temperature", math.nan)


def test_solvers_may_go_while_their_steps_are_on_their_way(comm, places):
    def left():
        """What lives on the device once all that can be given back is."""
        for _ in range(20):
            gc.collect()
            Halo(Grid(comm, (8, 8)), fields=[np.zeros(Grid(comm, (8, 8)).local_shape)])
        return {what: census[what] for what in ("allocations", "pinned", "events")}

    def steps():
        heat = Heat(Grid(comm, (12, 14)), 1 / 12, place=places[1])
        heat.step(heat.dt_max)
        heat.set_walls(1.0)
        heat.advance(heat.dt_max, 2)
        assert not heat.has_nan()
        heat.step(heat.dt_max)

    steps()
    before = left()
    for _ in range(5):
        steps()
    assert left() == before
