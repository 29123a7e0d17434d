import math

import numpy as np
import pytest
from mpi4py import MPI
from serial import alone, largest, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError
from hpckit.pde.hillslope import Hillslope

pytestmark = pytest.mark.mpi


def ridge(grid, height, h):
    """A sine across the first dimension, zero at both ends."""
    y = (np.arange(grid.start[0], grid.stop[0]) + 0.5) * h
    return np.broadcast_to(
        (height * np.sin(math.pi * y / (grid.shape[0] * h)))[:, None], grid.owned_shape()
    )


@pytest.mark.parametrize("critical_slope", [None, 1.2])
def test_a_low_ridge_decays_exponentially(comm, critical_slope):
    n, h, k = 24, 10.0, 0.02
    hill = Hillslope(
        Grid(comm, (n, 6)),
        h,
        diffusivity=k,
        critical_slope=critical_slope,
        walls=[0.0, "insulated"],
    )
    hill.set("elevation", ridge(hill.grid, 0.01, h))  # slopes of 1e-4: linear either way
    for _ in range(40):
        hill.step(hill.dt_max)
    decay = math.exp(-k * (math.pi / (n * h)) ** 2 * hill.time)
    assert (
        largest(comm, hill.fields["elevation"][hill.grid.owned] - decay * ridge(hill.grid, 0.01, h))
        < 1e-3 * 0.01
    )


def profile(grid, h, uplift, k, critical_slope):
    """Steady elevation between two base levels: parabola, or Roering et al. (2001), eq. 8."""
    half = grid.shape[0] * h / 2
    y = (np.arange(grid.start[0], grid.stop[0]) + 0.5) * h - half
    if critical_slope is None:
        return uplift / (2 * k) * (half**2 - y**2)

    def height(x):
        beta = 2 * uplift / (k * critical_slope)
        root = np.sqrt(1 + (beta * x) ** 2)
        return -critical_slope / beta * (root - np.log((1 + root) / 2))

    return height(y) - height(half)


@pytest.mark.parametrize("critical_slope", [None, 1.25])
def test_the_steady_profile_under_uplift(comm, critical_slope):
    """Started from the exact profile, it stays there: the change is that of the scheme's error."""
    n, h, k, uplift = 40, 2.5, 0.01, 2e-4
    hill = Hillslope(
        Grid(comm, (n, 4)),
        h,
        diffusivity=k,
        uplift=uplift,
        critical_slope=critical_slope,
        walls=[0.0, "insulated"],
    )
    exact = profile(hill.grid, h, uplift, k, critical_slope)[:, None]
    hill.set("elevation", np.broadcast_to(exact, hill.grid.owned_shape()))
    for _ in range(50):
        hill.step(0.9 * hill.dt_max)
    top = comm.allreduce(float(exact.max()), MPI.MAX)
    assert top > 5
    assert largest(comm, hill.fields["elevation"][hill.grid.owned] - exact) < 0.01 * top
    if critical_slope is not None:  # a linear hill as high would not be steady
        assert top < 0.9 * uplift / (2 * k) * (n * h / 2) ** 2


def test_steeper_slopes_creep_faster(comm):
    lost = {}
    for critical_slope in (None, 0.8):
        hill = Hillslope(
            Grid(comm, (20, 20)),
            1.0,
            diffusivity=1.0,
            critical_slope=critical_slope,
            walls=[0.0, "insulated"],
        )
        hill.set("elevation", ridge(hill.grid, 4.0, 1.0))
        for _ in range(40):
            hill.step(0.008)
        lost[critical_slope] = comm.allreduce(
            (ridge(hill.grid, 4.0, 1.0) - hill.fields["elevation"][hill.grid.owned]).sum()
        )
    assert 2 * lost[None] < lost[0.8] < 4 * lost[None]  # 1 / (1 - S^2/Sc^2) is 2.6 at the foot


@pytest.mark.parametrize("critical_slope", [None, 0.9])
@pytest.mark.parametrize("periodic", [(False, False), (True, False)])
@pytest.mark.parametrize(("method", "dtype"), [("auto", np.float64), ("datatype", np.float32)])
def test_ranks_and_threads_give_the_same_bits(comm, critical_slope, periodic, method, dtype):
    shape = (33, 600)
    whole = np.random.default_rng(4).random(shape) * 3
    results = []
    for grid, threads in (
        (alone(shape, periodic=periodic), 1),
        (Grid(comm, shape, periodic=periodic), 1),
        (Grid(comm, shape, periodic=periodic), 4),
    ):
        hill = Hillslope(
            grid,
            (2.0, 1.5),
            diffusivity=0.3,
            uplift=0.01,
            critical_slope=critical_slope,
            walls=[(1.0, "insulated"), ("insulated", 0.0)],
            dtype=dtype,
            threads=threads,
            method=method,
        )
        hill.set("elevation", mine(grid, whole))
        for _ in range(4):
            hill.step(hill.dt_max)
        results.append(hill.fields["elevation"][grid.owned])
    assert np.array_equal(mine(hill.grid, results[0]), results[1])
    assert np.array_equal(results[1], results[2])


@pytest.mark.parametrize("critical_slope", [None, 0.5])
def test_steep_noise_stays_bounded_and_loses_no_sediment(comm, critical_slope):
    shape = (20, 22)
    hill = Hillslope(Grid(comm, shape), 1.0, diffusivity=1.0, critical_slope=critical_slope)
    start = mine(hill.grid, np.random.default_rng(6).random(shape) * 10)
    hill.set("elevation", start)
    for _ in range(40):
        hill.step(hill.dt_max)
    end = hill.fields["elevation"][hill.grid.owned]
    assert comm.allreduce(end.sum()) == pytest.approx(comm.allreduce(start.sum()), rel=1e-12)
    assert comm.allreduce(float(end.min()), MPI.MIN) >= comm.allreduce(float(start.min()), MPI.MIN)
    assert comm.allreduce(float(end.max()), MPI.MAX) < comm.allreduce(float(start.max()), MPI.MAX)


def test_impossible_arguments(comm):
    with pytest.raises(ConfigError, match="critical_slope=-1 must be a positive number"):
        Hillslope(Grid(comm, (8, 8)), 1.0, diffusivity=1.0, critical_slope=-1)
    with pytest.raises(ConfigError, match="needs a grid of 2 dimensions, not 1"):
        Hillslope(Grid(comm, (8,)), 1.0, diffusivity=1.0, critical_slope=1.0)
