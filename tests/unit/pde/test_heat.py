import math
import tracemalloc

import numpy as np
import pytest
from serial import alone, largest, mine

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, HpckitError
from hpckit.pde import Setup
from hpckit.pde.heat import Heat, HeatEquation, ImplicitHeat

pytestmark = pytest.mark.mpi


def error_at(comm, make, n, ndim, periodic, walls, time, factor):
    """Largest error at `time` of a decaying mode on n^ndim cells, with steps of factor / n^2."""
    heat = make(Grid(comm, (n,) * ndim, periodic=periodic), 1 / n, kappa=0.5, walls=walls)
    heat.set("temperature", heat.exact(0))
    steps = math.ceil(time * n**2 / factor)
    for _ in range(steps):
        heat.step(time / steps)
    assert heat.time == pytest.approx(time)
    return largest(comm, heat.fields["temperature"][heat.grid.owned] - heat.exact(time))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("periodic", "walls"), [(True, 0.0), (False, 0.0), (False, "insulated")])
def test_converges_with_second_order(comm, ndim, periodic, walls):
    errors = [error_at(comm, Heat, n, ndim, periodic, walls, 0.004, 0.02) for n in (8, 16)]
    assert 3 < errors[0] / errors[1] < 5


def test_mixed_boundaries(comm):
    heat = Heat(
        Grid(comm, (12, 16, 10), periodic=(False, True, False)),
        (0.1, 0.1, 0.2),
        walls=(0.0, 0.0, "insulated"),
    )
    heat.set("temperature", heat.exact(0))
    for _ in range(20):
        heat.step(0.5 * heat.dt_max)
    assert largest(comm, heat.fields["temperature"][heat.grid.owned] - heat.exact(heat.time)) < 0.01


@pytest.mark.parametrize(
    ("method", "dtype"), [("auto", np.float64), ("packed", np.float32), ("direct", np.float64)]
)
@pytest.mark.parametrize("shape", [(40,), (23, 17), (11, 12, 13), (9, 70, 600)])
def test_ranks_threads_and_methods_give_the_same_bits(comm, shape, method, dtype):
    walls = [("insulated", 2.0), (1.0, -1.0), ("insulated", "insulated")][: len(shape)]
    whole = np.random.default_rng(1).standard_normal(shape)
    results = []
    for grid, threads in ((alone(shape), 1), (Grid(comm, shape), 1), (Grid(comm, shape), 3)):
        heat = Heat(grid, 0.1, source=0.3, walls=walls, dtype=dtype, threads=threads, method=method)
        heat.set("temperature", mine(grid, whole))
        for _ in range(4):
            heat.step(0.9 * heat.dt_max)
        results.append(heat.fields["temperature"][grid.owned])
    serial, parallel, threaded = results
    assert serial.dtype == dtype
    assert np.array_equal(mine(grid, serial), parallel)
    assert np.array_equal(parallel, threaded)


def test_streaming_stores_give_the_same_bits(comm, monkeypatch):
    whole = np.random.default_rng(1).standard_normal((20, 30, 700))
    results = []
    for streams in (False, True):
        monkeypatch.setattr(Heat, "_streams", lambda *_, streams=streams: streams)
        heat = Heat(Grid(comm, whole.shape), 0.1)
        heat.set("temperature", mine(heat.grid, whole))
        heat.step(heat.dt_max)
        results.append(heat.fields["temperature"][heat.grid.owned])
    assert np.array_equal(*results)


def test_wide_ghosts_and_uneven_blocks(comm):
    whole = np.random.default_rng(2).standard_normal((14, 15))
    narrow = Heat(alone(whole.shape), 1.0)
    wide = Heat(Grid(comm, whole.shape, width=(2, (1, 3))), 1.0)
    for heat in (narrow, wide):
        heat.set("temperature", mine(heat.grid, whole))
        for _ in range(3):
            heat.step(heat.dt_max)
    expected = mine(wide.grid, narrow.fields["temperature"][narrow.grid.owned])
    assert np.array_equal(wide.fields["temperature"][wide.grid.owned], expected)


def test_a_uniform_state_stays_exactly_so(comm):
    heat = Heat(Grid(comm, (12, 12, 12)), 0.3, walls=[("insulated", 7.3), 7.3, "insulated"])
    heat.set("temperature", 7.3)
    for _ in range(10):
        heat.step(heat.dt_max)
    assert (heat.fields["temperature"][heat.grid.owned] == 7.3).all()


def test_insulated_walls_keep_the_heat(comm):
    heat = Heat(Grid(comm, (10, 11)), 1.0)
    heat.set("temperature", np.random.default_rng(comm.rank).random(heat.grid.owned_shape()))
    totals = []
    for _ in range(2):
        totals.append(comm.allreduce(heat.fields["temperature"][heat.grid.owned].sum()))
        for _ in range(10):
            heat.step(heat.dt_max)
    assert totals[1] == pytest.approx(totals[0], rel=1e-13)


def test_the_limit_is_sharp(comm):
    heat = Heat(Grid(comm, (16, 16), periodic=True), 1.0)
    start, stop = heat.grid.start, heat.grid.stop
    row, column = np.ogrid[start[0] : stop[0], start[1] : stop[1]]
    checkerboard = (-1.0) ** (row + column)
    heat.set("temperature", checkerboard)
    for _ in range(10):
        heat.step(heat.dt_max)
    # The fastest wave neither grows nor decays.
    assert np.allclose(heat.fields["temperature"][heat.grid.owned], checkerboard)
    with pytest.raises(ConfigError, match=r"time step .* is unstable .* \(0, 0.25\]"):
        heat.step(heat.dt_max * 1.001)
    with pytest.raises(ConfigError, match="unstable or not positive"):
        heat.step(0.0)


def test_a_step_allocates_no_field(comm):
    heat = Heat(Grid(comm, (40, 40, 40)), 1.0, walls=1.0, threads=2)
    heat.step(heat.dt_max)
    while heat.halo.method == "auto":  # the race makes what it needs
        heat.step(heat.dt_max)
    heat.step(heat.dt_max)

    def peak():
        tracemalloc.start()
        heat.step(heat.dt_max)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # Of several: threads and the interpreter allocate now and then.
    least = min(peak() for _ in range(10))
    assert least < 60_000  # two threads take 30,000, a field 128,000 and more


def test_values_that_are_not_finite_are_counted_and_placed(comm):
    heat = Heat(Grid(comm, (8, 9)), 1.0)
    whole = np.zeros((8, 9))
    whole[6, 2] = whole[3, 7] = np.nan
    whole[7, 0] = np.inf
    with pytest.raises(
        ConfigError, match=r"temperature has 3 values .* first at global index \(3, 7\)"
    ):
        heat.set("temperature", mine(heat.grid, whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": -1.0}, "spacing -1.0 must be"),
        ({"spacing": (1.0, 1.0)}, "one per dimension"),
        ({"spacing": 1.0, "kappa": 0.0}, "diffusivity=0.0 must be"),
        ({"spacing": 1.0, "dtype": int}, "dtype int64 has no kernels"),
        ({"spacing": 1.0, "threads": 0}, "threads=0 must be"),
        ({"spacing": 1.0, "walls": "warm"}, "wall 'warm' must be"),
        ({"spacing": 1.0, "walls": [0.0, 1.0]}, "one per dimension"),
        ({"spacing": 1.0, "method": "pigeon"}, "pigeon"),
    ],
)
def test_impossible_arguments(comm, options, message):
    with pytest.raises(ConfigError, match=message):
        Heat(Grid(comm, (8, 8, 8)), **options)


def test_impossible_calls(comm):
    heat = Heat(Grid(comm, (8, 8)), 1.0, walls=3.0)
    with pytest.raises(ConfigError, match="this rank owns"):
        heat.set("temperature", np.zeros((3, 3, 3)))
    with pytest.raises(ConfigError, match="no field 'pressure': choose one of temperature"):
        heat.set("pressure", 0)
    with pytest.raises(ConfigError, match="no exact solution"):
        heat.exact(0)
    with pytest.raises(ConfigError, match="ghost width"):
        Heat(Grid(comm, (8, 8), width=(1, 0)), 1.0)


def test_a_difference_on_one_rank_fails_on_all(comm):
    if comm.size > 1:
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            Heat(Grid(comm, (8, 8)), 1.0, kappa=1.0 + (comm.rank == 1))


@pytest.mark.usefixtures("petsc")
class TestImplicit:
    @pytest.mark.parametrize(
        ("ndim", "periodic", "walls"), [(1, True, 0.0), (3, False, "insulated")]
    )
    def test_crank_nicolson_converges_with_second_order(self, comm, ndim, periodic, walls):
        def make(*arguments, **options):
            return ImplicitHeat(
                *arguments, scheme="crank-nicolson", options="-pc_type jacobi", **options
            )

        # dt ~ dx
        errors = [error_at(comm, make, n, ndim, periodic, walls, 0.04, 0.04 * n) for n in (8, 16)]
        assert 3 < errors[0] / errors[1] < 5

    def test_backward_euler_is_its_own_decay(self, comm):
        """A mode is an eigenvector: one step divides it by 1 + dt kappa lambda."""
        n, dt = 12, 0.7
        heat = ImplicitHeat(Grid(comm, (n, n)), 1 / n, walls=0.0)
        start = heat.exact(0)
        heat.set("temperature", start)
        heat.step(dt)
        eigenvalue = 2 * (2 * n * math.sin(math.pi / (2 * n))) ** 2
        expected = start / (1 + dt * eigenvalue)
        assert largest(comm, heat.fields["temperature"][heat.grid.owned] - expected) < 1e-10
        assert heat.iterations > 0

    @pytest.mark.parametrize(
        ("scheme", "dtype"), [("backward-euler", np.float64), ("crank-nicolson", np.float32)]
    )
    def test_ranks_agree_to_the_solvers_tolerance(self, comm, scheme, dtype):
        shape, walls = (9, 10, 11), [(1.0, "insulated"), "insulated", (0.0, 2.0)]
        whole = np.random.default_rng(3).random(shape)
        results = []
        for grid in (alone(shape), Grid(comm, shape)):
            heat = ImplicitHeat(
                grid,
                0.1,
                source=0.5,
                walls=walls,
                scheme=scheme,
                dtype=dtype,
                options="-ksp_rtol 1e-12",
            )
            heat.set("temperature", mine(grid, whole))
            for dt in (0.05, 0.1):
                heat.step(dt)
            results.append(heat.fields["temperature"][grid.owned])
        assert largest(comm, mine(grid, results[0]) - results[1]) < (
            1e-9 if dtype == np.float64 else 1e-5
        )

    def test_the_steady_state_between_two_walls_is_a_line(self, comm):
        heat = ImplicitHeat(Grid(comm, (10,)), 0.1, walls=[(1.0, 3.0)])
        for _ in range(3):
            heat.step(1e6)
        x = (np.arange(heat.grid.start[0], heat.grid.stop[0]) + 0.5) * 0.1
        assert largest(comm, heat.fields["temperature"][heat.grid.owned] - (1 + 2 * x)) < 1e-8

    def test_options_reach_the_solver(self, comm):
        heat = ImplicitHeat(
            Grid(comm, (10, 10)), 0.1, options="-ksp_type cg -pc_type jacobi -ksp_max_it 2"
        )
        heat.set("temperature", np.random.default_rng(comm.rank).random(heat.grid.owned_shape()))
        with pytest.raises(
            HpckitError,
            match=r"stopped after 2 iterations .*DIVERGED_(MAX_IT|ITS).*take smaller steps",
        ):
            heat.step(10.0)

    def test_unknown_scheme(self, comm):
        with pytest.raises(ConfigError, match="scheme 'magic' must be one of"):
            ImplicitHeat(Grid(comm, (8, 8)), 1.0, scheme="magic")


def test_a_verdict_loses_no_nan_whatever_rank_has_it(comm):
    numerics = {"dtype": "float64", "threads": 1, "method": "packed"}
    for bad in range(comm.size):
        grid = Grid(comm, (12, 12))
        equation = HeatEquation(Setup(grid, numerics), HeatEquation.Options())
        equation.start()
        assert all(np.isfinite(value) for value in equation.verdict().values())
        if comm.rank == bad:
            equation.solver.fields["temperature"][grid.owned][0, 0] = np.nan
        assert all(np.isnan(value) for value in equation.verdict().values())
