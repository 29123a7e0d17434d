"""Fields whose values sit on the borders of the cells: the shape of a local array tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, together

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.comm.partition import Width

Stagger = tuple[int, ...]
"""per dimension, 1 where the last rank owns one value more (staggered, not periodic)"""


def staggering(
    grid: Grid, fields: Mapping[str, np.ndarray], width: Width | None = None
) -> dict[str, Stagger]:
    """The `Stagger` of each field, known from the shapes of the local arrays (collective).

    fields : by what errors call them, as many on all ranks
    width : of their ghosts, by default the grid's

    Raises `ConfigError` on all ranks where an array does not belong to the grid. ::

        staggering(grid, {"field 'u'": grid.zeros(stagger=(1, 0))})  # {"field 'u'": (1, 0)}
    """
    ends = [not wrap and c == p - 1 for wrap, c, p in _places(grid)]
    longer = np.zeros((len(fields), grid.ndim), np.int64)
    with together(grid.comm):
        for row, (name, array) in zip(longer, fields.items(), strict=True):
            _check_dimensions(grid, name, array)
            row[:] = np.subtract(array.shape, local_shape(grid, (0,) * grid.ndim, width))
            if not ((row == 0) | (row == 1) & ends).all():
                raise _foreign(grid, name, array, (0,) * grid.ndim, width)
    # Only a rank at the high end of a dimension can tell whether a field is staggered there.
    grid.comm.Allreduce(MPI.IN_PLACE, longer, op=MPI.MAX)
    found = dict(zip(fields, map(tuple, longer.tolist()), strict=True))
    with together(grid.comm):
        for name, array in fields.items():
            check_shape(grid, name, array, found[name], width)
    return found


def check_shape(
    grid: Grid, name: str, array: np.ndarray, stagger: Stagger, width: Width | None = None
) -> None:
    """Raise `ConfigError` unless it has the shape of this rank's block, ghosts included."""
    if array.shape != local_shape(grid, stagger, width):
        raise _foreign(grid, name, array, stagger, width)


def local_shape(grid: Grid, stagger: Stagger, width: Width | None = None) -> tuple[int, ...]:
    """Of this rank's array of such a field, with ghosts of that width, by default the grid's."""
    sides = zip(grid.owned_shape(stagger), width or grid.width, strict=True)
    return tuple(lo + n + hi for n, (lo, hi) in sides)


def _places(grid: Grid) -> zip[tuple[bool, int, int]]:
    return zip(grid.periodic, grid.coords, grid.process_shape, strict=True)


def _check_dimensions(grid: Grid, name: str, array: np.ndarray) -> None:
    if array.ndim > grid.ndim:
        component = ", ".join([*":" * grid.ndim, *"0" * (array.ndim - grid.ndim)])
        raise ConfigError(
            f"{name} has {array.ndim} dimensions, local shape {array.shape}, but the grid has "
            f"{grid.ndim}: pass each component as a field of its own, such as field[{component}] "
            "(no copy is made)"
        )
    if array.ndim < grid.ndim:
        raise _foreign(grid, name, array, (0,) * grid.ndim, None)


def _foreign(
    grid: Grid, name: str, array: np.ndarray, stagger: Sequence[int], width: Width | None
) -> ConfigError:
    """What to say of an array of another shape."""
    wanted = local_shape(grid, tuple(stagger), width)
    more = " (one more where it is staggered, on the last rank)" if not any(stagger) else ""
    hint = ""
    if width not in (None, grid.width) and array.shape == grid.local_shape:
        hint = (
            f"; that is the shape of the grid's own width {grid.width}: leave out width, or give "
            "it to the Grid"
        )
    return ConfigError(
        f"{name} has local shape {array.shape}, but on this rank, which owns {grid.owned_shape()} "
        f"cells, the grid's arrays have shape {wanted}{more}, ghosts included: make it with "
        f"grid.zeros(){hint}"
    )
