"""How fast a solver's step moves its fields, against a copy, NumPy slices and plain numba.

`limit` is the bandwidth of a step (each array counted once in, once out) as a fraction of STREAM
copy's in the same run, on the same rank: `python -m benchmarks.stencil [--quick] [--json FILE]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from mpi4py import MPI

from benchmarks import _harness
from benchmarks._harness import Report, Times, interleaved
from hpckit import native
from hpckit.comm.grid import Grid
from hpckit.pde.heat import Heat
from hpckit.pde.hillslope import Hillslope
from hpckit.pde.shallow_water import ShallowWater
from hpckit.pde.solver import Solver

TARGET = 0.7  # of STREAM copy
Steps = dict[str, Callable[[], object]]


def run(comm: MPI.Intracomm, quick: bool) -> Report:
    report, rows = Report("stencil"), []
    for case, make in _cases(quick):
        # Quick sizes stay in the caches.
        target = TARGET if case.startswith("heat") and not quick else None
        rows.append(_measure(report, case, *make(), 1.0 if quick else 12.0, target))
    head = ("case", "step ms", "GB/s", "copy GB/s", "fraction")
    _harness.print_table(head, rows, f"one step on one of {comm.size} rank(s)")
    return report


def _measure(
    report: Report, case: str, solver: Solver, peers: Steps, seconds: float, target: float | None
) -> tuple:
    dt = 0.5 * solver.dt_max
    copy, copied = _copy(solver)
    ways = {"hpckit": lambda: solver.step(dt), "STREAM copy": copy, **peers}
    times = interleaved(ways, seconds=seconds)
    ours = times.pop("hpckit")
    as_many_bytes = Times(times.pop("STREAM copy").samples * solver.bytes_per_step / copied)
    fraction, low, high = ours.ratio(as_many_bytes)
    report.add(case, "STREAM copy", fraction, low, high, target, fraction)
    for peer, time in times.items():
        report.add(case, peer, *ours.ratio(time), limit=fraction)
    rate = solver.bytes_per_step / 1e9
    return case, ours.best * 1e3, rate / ours.best, rate / as_many_bytes.best, fraction


def _copy(solver: Solver) -> tuple[Callable[[], object], int]:
    """A copy between two arrays of a field's size, and the bytes it reads and writes."""
    cells = int(np.prod(solver.grid.local_shape))
    source, target = (np.ones(cells, solver.dtype) for _ in range(2))
    kernel = getattr(native.load("benchmarks.stencil_kernels"), f"copy_f{solver.dtype.itemsize}")
    return lambda: kernel(native.address(target), native.address(source), cells), 2 * source.nbytes


def _cases(quick: bool) -> Iterator[tuple[str, Callable[[], tuple[Solver, Steps]]]]:
    cube, square = (64, 512) if quick else (256, 4096)
    for dtype in (np.float64, np.float32):
        yield f"heat {cube}^3 {np.dtype(dtype)}", lambda dtype=dtype: _heat((cube,) * 3, dtype)
    yield f"heat {square}^2 float64", lambda: _heat((square,) * 2, np.float64)
    square //= 2
    yield f"shallow water {square}^2 float64", lambda: (_water(square), {})
    yield f"hillslope {square}^2 float64", lambda: (_hill(square, None), {})
    yield f"hillslope {square}^2 float64, nonlinear", lambda: (_hill(square, 1.0), {})


def _heat(shape: tuple[int, ...], dtype: type) -> tuple[Heat, Steps]:
    """The solver, and the same step as it is usually written: NumPy slices, and a numba loop."""
    heat = Heat(Grid(MPI.COMM_SELF, shape), 1.0, walls=0.0, dtype=dtype)
    heat.set("temperature", 1.0)
    old = np.ones([n + 2 for n in shape], dtype)
    new, weight = old.copy(), 0.05
    loop = _numba_sweeps()[len(shape)]
    return heat, {
        "NumPy slices": lambda: _numpy(new, old, weight),
        "numba loop": lambda: loop(new, old, weight),
    }


def _numpy(new: np.ndarray, old: np.ndarray, weight: float) -> None:
    inner = (slice(1, -1),) * old.ndim
    around = np.zeros((), old.dtype)
    for d in range(old.ndim):
        low, high = ((*inner[:d], s, *inner[d + 1 :]) for s in (slice(None, -2), slice(2, None)))
        around = around + (old[low] + old[high] - 2 * old[inner])
    new[inner] = old[inner] + weight * around


@cache
def _numba_sweeps() -> dict[int, Callable]:
    import numba

    @numba.njit
    def plane(new, u, w):
        for i in range(1, u.shape[0] - 1):
            for j in range(1, u.shape[1] - 1):
                new[i, j] = u[i, j] + w * (
                    u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1] - 4 * u[i, j]
                )

    @numba.njit
    def cube(new, u, w):
        for i in range(1, u.shape[0] - 1):
            for j in range(1, u.shape[1] - 1):
                for k in range(1, u.shape[2] - 1):
                    around = u[i - 1, j, k] + u[i + 1, j, k] + u[i, j - 1, k] + u[i, j + 1, k]
                    new[i, j, k] = u[i, j, k] + w * (
                        around + u[i, j, k - 1] + u[i, j, k + 1] - 6 * u[i, j, k]
                    )

    return {2: plane, 3: cube}


def _water(n: int) -> ShallowWater:
    water = ShallowWater(Grid(MPI.COMM_SELF, (n, n)), 4000.0, 0.01, south=45.0)
    water.set("eta", np.exp(-(np.linspace(-9, 9, n) ** 2)) * np.ones((n, 1)))
    return water


def _hill(n: int, critical_slope: float | None) -> Hillslope:
    hill = Hillslope(
        Grid(MPI.COMM_SELF, (n, n)), 30.0, diffusivity=0.01, critical_slope=critical_slope
    )
    hill.set("elevation", np.random.default_rng(0).random((n, n)) * 30)
    return hill


if __name__ == "__main__":
    _harness.main("stencil", run)
