"""Explicit schemes of two time levels: all fields at the next level from those at this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpckit.pde.alone import Ghosts, is_alone
from hpckit.pde.solver import Solver
from hpckit.pde.walls import Walls
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.pde.backend import AnySweep


class Explicit(Solver):
    """Fields that a kernel computes into other arrays, which then take their places.

    A subclass sets its coefficients and calls `_allocate`; its `_sweep` says which kernel reads and
    writes what, and its `_arguments` what the kernel takes besides::

        def _sweep(self, new, old):
            boxes = self.halo.interior, self.halo.shell
            return self._backend.sweep("react", (*new, *old), *boxes)
    """

    corners: bool = False  # whether the stencil needs the ghosts' edges and corners

    def step(self, dt: float) -> None:
        """Advance by `dt`, after which `fields` holds other arrays.

        Raises `ConfigError` beyond `dt_max`.
        """
        self._check_step(dt)
        self._advance(self._arguments(dt))
        self.time += dt

    def advance(self, dt: float, count: int) -> None:
        """As `Solver.advance`: by one call where this rank is alone and the kernel can repeat."""
        if self._ghosts is None:
            super().advance(dt, count)
            return
        self._check_step(dt)
        self._levels[0].sweep.repeat(*self._ghosts.arguments, count, *self._arguments(dt))
        if count % 2:
            self._swap()
        for _ in range(count):  # as steps would add them
            self.time += dt

    def _allocate(self, names: Sequence[str], walls: Walls) -> None:
        """Both levels of the fields of these names, their halo and their sweeps (collective)."""
        from hpckit.halo import Halo  # starts MPI, which reading an equation's options must not

        old, new = ([self._backend.zeros() for _ in names] for _ in range(2))
        self._arrays = dict(zip(names, old, strict=True))
        self.fields = self._backend.fields(self._arrays)
        arrays = len(old) + len(new)
        cells = math.prod(self.grid.owned_shape())
        self.bytes_per_step = arrays * cells * self.dtype.itemsize
        self._stream = self._streams(arrays)
        self.halo = Halo(self.grid, fields=old, corners=self.corners, method=self.method)
        self._levels = [
            _Level(here, self._sweep(there, here), dict(zip(names, there, strict=True)))
            for here, there in ((old, new), (new, old))
        ]
        self._enclose(walls)

    def _enclose(self, walls: Walls) -> None:
        """From now on the walls are these."""
        self._fills = [self._backend.fill(walls, level.arrays) for level in self._levels]
        arrays, sweep, _ = self._levels[0]
        alone = is_alone(self.grid) and self._threads == 1
        can = alone and sweep.repeats and not self.corners
        self._ghosts = Ghosts(self.grid, walls, arrays[0]) if can else None

    def _advance(self, arguments: tuple) -> None:
        """One sweep, the interior while the halo travels, and the levels change places."""
        arrays, sweep, _ = self._levels[0]
        fill = self._fills[0]
        with span("halo start"):
            self.halo.start(*arrays)
        with span("interior"):
            fill()
            sweep.interior(*arguments)
        with span("halo wait"):
            self.halo.wait()
        with span("shell"):
            if self.corners:  # where a wall meets a neighbour
                fill()
            sweep.shell(*arguments)
        self._swap()

    def _swap(self) -> None:
        """The levels change places: `fields` is now what was computed."""
        self._arrays.update(self._levels[0].following)
        self._levels.reverse()
        self._fills.reverse()

    def _sweep(self, new: Sequence[Any], old: Sequence[Any]) -> AnySweep:
        """What computes `new` from `old`, whose ghosts are filled."""
        raise NotImplementedError

    def _arguments(self, dt: float) -> tuple:
        """What the kernel takes after addresses and extents."""
        raise NotImplementedError


class _Level(NamedTuple):
    """The fields at one time."""

    arrays: list[Any]
    sweep: AnySweep  # from them into the other level
    following: dict[str, Any]  # the other level, by name
