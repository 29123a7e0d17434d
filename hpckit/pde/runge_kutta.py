"""Steps of three stages: the third-order Runge-Kutta method of Shu & Osher (1988).

    u1 = u + dt L(u)
    u2 = 3/4 u + 1/4 (u1 + dt L(u1))
    u  = 1/3 u + 2/3 (u2 + dt L(u2))

Each stage is a mean of forward Euler steps, so what these keep within bounds stays there (strong
stability preserving). The stability polynomial reaches to -2.51 and +-1.73 i; `LIMITS` are the
largest time steps for what the equations' kernels approximate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hpckit import native
from hpckit.errors import ConfigError, together
from hpckit.pde import walls as boundary
from hpckit.pde.alone import Ghosts, is_alone
from hpckit.pde.solver import Solver
from hpckit.trace import span

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from hpckit.comm.grid import Grid
    from hpckit.pde.backend import AnySweep

GHOSTS = 3  # cells that stencils reach
_WEIGHTS = (0.0, 1.0, 3 / 4, 1 / 4, 1 / 3, 2 / 3)  # of the old state and of the Euler step
_WHEN = (0.0, 1.0, 0.5)  # the times of the stages' states, in steps


class Limits(NamedTuple):
    """The largest time steps of one term each, in dt v/h, dt kappa/h^2 and dt gamma/h^3.

    Several terms at once are stable where the sum of their dt over these is at most 1 (checked by
    scanning the symbols).
    """

    carried: float = 1.43
    weno: float = 1.0  # less than 1.43 of its linear weights: they vary
    spread: float = 0.4157
    dispersed: float = 0.3758
    reacted: float = 2.5


LIMITS = Limits()


class RungeKutta(Solver):
    """Fields in a periodic box that kernels advance by stages.

    A subclass names its `kernels` and the `kernel` of them that makes a stage, beside which is one
    called `..._alone` that makes steps; calls `_allocate`; and says in `_arguments` what both take
    last::

        class Burgers(RungeKutta):
            kernels = "hpckit.pde.combined_kernels"
            kernel = "steepen"
    """

    kernel: ClassVar[str]

    def __init__(self, grid: Grid, ndim: int, dtype: DTypeLike, threads: int, method: str) -> None:
        super().__init__(grid, dtype, threads, method)
        name = type(self).__name__
        with together(grid.comm):
            if grid.ndim != ndim or not all(grid.periodic):
                dimensions = f"{ndim} dimension{'s' * (ndim > 1)}"
                raise ConfigError(
                    f"{name} needs a periodic grid of {dimensions}, not {grid.ndim} with "
                    f"periodic={grid.periodic}: --periodic, and a shape of {dimensions}"
                )
            if min(min(w) for w in grid.width) < GHOSTS:
                raise ConfigError(
                    f"{name} needs ghosts of {GHOSTS} cells, not {grid.width}: make"
                    f" Grid(..., width={GHOSTS})"
                )

    def step(self, dt: float) -> None:
        """Advance by `dt`. Raises `ConfigError` beyond `dt_max`."""
        self._check_step(dt)
        for stage in self._stages:
            arguments = stage.keep, stage.take, *self._arguments(dt, self.time + stage.when * dt)
            with span("halo start"):
                self.halo.start(*stage.state)
            with span("interior"):
                stage.sweep.interior(*arguments)
            with span("halo wait"):
                self.halo.wait()
            with span("shell"):
                stage.sweep.shell(*arguments)
        self.time += dt

    def advance(self, dt: float, count: int) -> None:
        """As `Solver.advance`: by one call where this rank is alone."""
        if self._ghosts is None:
            super().advance(dt, count)
            return
        self._check_step(dt)
        weights = native.address(self._weights)
        self._alone.interior(
            *self._ghosts.arguments, count, weights, *self._arguments(dt, self.time)
        )
        for _ in range(count):  # as steps would add them
            self.time += dt

    def _allocate(self, names: Sequence[str], constants: Sequence[np.ndarray] = ()) -> None:
        """The fields of these names, room for two more states, halo and sweeps (collective).

        constants : arrays that the kernels read besides, laid out as fields.
        """
        from hpckit.halo import Halo  # starts MPI, which reading an equation's options must not

        states = [[self._backend.zeros() for _ in names] for _ in range(3)]
        old = states[0]
        self.fields = dict(zip(names, old, strict=True))
        cells = math.prod(self.grid.owned_shape())
        moved = 8 * len(names) + 3 * len(constants)  # 2 + 3 + 3 arrays in the three stages
        self.bytes_per_step = moved * cells * self.dtype.itemsize
        self._stream = self._streams(3 * len(names) + len(constants))
        self.halo = Halo(self.grid, fields=old, method=self.method)
        self._weights = np.array(_WEIGHTS, self.dtype)
        boxes = self.halo.interior, self.halo.shell
        self._stages = []
        for i, state in enumerate(states):
            new = states[(i + 1) % 3]
            given = (*new, *old, *state, *constants)
            sweep = self._backend.sweep(self.kernel, given, *boxes)
            keep, take = self._weights[2 * i : 2 * i + 2].tolist()
            self._stages.append(_Stage(state, sweep, keep, take, _WHEN[i]))
        arrays = [array for state in states for array in state]
        self._alone = self._backend.sweep(f"{self.kernel}_alone", (*arrays, *constants), *boxes)
        can = is_alone(self.grid) and self._threads == 1
        walls = boundary.parse(boundary.INSULATED, self.grid.ndim)  # there are none
        self._ghosts = Ghosts(self.grid, walls, old[0]) if can else None

    def _arguments(self, dt: float, time: float) -> tuple:
        """What kernels take last: coefficients of a stage of `dt` on the state at `time`."""
        raise NotImplementedError


class _Stage(NamedTuple):
    """One stage of a step: new = keep base + take (state + dt L(state))."""

    state: list[np.ndarray]
    sweep: AnySweep
    keep: float
    take: float
    when: float
