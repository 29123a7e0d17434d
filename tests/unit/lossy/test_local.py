"""Local updates: averaging against NumPy, CO2's outer steps against formulas, convergence."""

import numpy as np
import pytest

from hpckit.errors import ConfigError, HpckitError
from hpckit.lossy.local import LocalUpdates

pytestmark = pytest.mark.mpi
N, TAU = 6, 4


def problem(rank):
    """Least squares: rows of this rank, whose minimum differs from the others'."""
    rng = np.random.default_rng(rank)
    return rng.normal(size=(20, N)), rng.normal(size=20)


def gradient(x, rank):
    a, b = problem(rank)
    return a.T @ (a @ x - b) / len(b)


def optimum(size):
    a, b = (np.concatenate(parts) for parts in zip(*map(problem, range(size)), strict=True))
    return np.linalg.lstsq(a, b)[0]


def local_steps(x, rank, rate):
    for _ in range(TAU):
        x = x - rate * gradient(x, rank)
    return x


def run(comm, rounds, **options):
    x = np.full(N, 1.0 if comm.rank == 0 else -5.0)  # all begin with rank 0's
    outer = LocalUpdates(comm, x, tau=TAU, **options)
    for step in range(rounds * TAU):
        x -= 0.05 * gradient(x, comm.rank)
        assert outer.step() == ((step + 1) % TAU == 0)
    outer.finish()
    assert len(set(comm.allgather(x.tobytes()))) == 1
    return x


def test_without_overlap_it_is_plain_averaging(comm):
    x = np.ones(N)
    for _ in range(10):
        x = np.mean([local_steps(x, rank, 0.05) for rank in range(comm.size)], axis=0)
    np.testing.assert_allclose(run(comm, 10, overlap=False), x, rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"rate": 0.7, "momentum": 0.5, "clip": 0.05}])
def test_outer_steps_follow_the_formulas(comm, options):
    rate, momentum, clip = (
        options.get(name, default) for name, default in (("rate", 1), ("momentum", 0), ("clip", 9))
    )
    starts, averages, m, farthest = [np.ones(N)], [], np.zeros(N), 0.0
    for t in range(8):
        averages.append(
            np.mean([local_steps(starts[t], rank, 0.05) for rank in range(comm.size)], axis=0)
        )
        if t == 0:
            starts.append(starts[0])
            continue
        m, farthest = outer_momentum(m, starts, averages[t - 1], farthest, momentum, clip)
        starts.append(starts[t] - rate * m)
    m, _ = outer_momentum(m, starts, averages[-1], farthest, momentum, clip)
    np.testing.assert_allclose(run(comm, 8, **options), starts[-1] - rate * m, rtol=1e-10)


def outer_momentum(m, starts, average, farthest, momentum, clip):
    moved = np.linalg.norm(starts[-1] - starts[-2])
    farthest = max(farthest, moved)
    gap = 1 + (moved / farthest if moved else 0)
    return np.clip(momentum * m + (starts[-2] - average) / gap, -clip, clip), farthest


@pytest.mark.parametrize("options", [{}, {"momentum": 0.3}, {"clip": 0.2}, {"overlap": False}])
def test_it_converges_to_the_optimum_of_all_ranks(comm, options):
    """With a rate that falls, as the averages of local minima are not the minimum."""
    x = np.ones(N)
    outer = LocalUpdates(comm, x, tau=TAU, **options)
    for step in range(600):
        x -= 0.2 / (1 + step / 20) * gradient(x, comm.rank)
        outer.step()
    outer.finish()
    np.testing.assert_allclose(x, optimum(comm.size), atol=0.02)


def test_an_unfinished_round_is_dropped(comm):
    x = np.ones(3)
    outer = LocalUpdates(comm, x, tau=2)
    x += comm.rank
    outer.step()
    outer.finish()
    assert (x == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0}, "tau=0"),
        ({"tau": 1, "momentum": 1.0}, "momentum=1.0"),
        ({"tau": 1, "clip": 0.0}, "clip=0.0"),
    ],
)
def test_bad_options(comm, options, message):
    with pytest.raises(ConfigError, match=message):
        LocalUpdates(comm, np.zeros(3), **options)
    with pytest.raises(ConfigError, match="float32 or float64"):
        LocalUpdates(comm, np.zeros(3, int), tau=1)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, "overflow"])
def test_an_average_that_is_not_finite_is_an_error_and_leaves_no_trace(comm, overlap, wrong):
    x, rounds = np.ones(N), 5
    outer = LocalUpdates(comm, x, tau=1, momentum=0.5, overlap=overlap)
    if wrong == "overflow":  # of the step, not of the average
        x[2] = -1.7e308
        outer._start[:] = outer._start_before[:] = 1.7e308
    elif comm.rank == comm.size - 1:
        x[2] = wrong
    if overlap:
        outer.step()  # the average is in flight
    with pytest.raises(HpckitError, match="not finite: the outer step was not taken"):
        outer.step()
    for part in (outer._start, outer._start_before):
        part[:] = 1.0
    x[:] = 1.0
    for _ in range(rounds):
        outer.step()
    outer.finish()
    assert (x == 1.0).all()
