"""What an exchange is, by definition: ghosts hold their cells' global numbers, or nothing."""

from __future__ import annotations

import numpy as np

from hpckit.comm.grid import Grid

UNTOUCHED = 77
RECORD = np.dtype([("mass", "f8"), ("kind", "i2"), ("at", "f4", (3,))])
SHAPES = [(17,), (9, 14), (8, 9, 10), (5, 6, 4, 8)]


def numbered(grid: Grid, dtype="f8", stagger=0, order="C", shared=False) -> np.ndarray:
    """A field whose owned cells hold their global number (from 100), its ghosts `UNTOUCHED`."""
    field = grid.zeros(dtype, stagger, order, shared)
    field[...] = filled(np.full(field.shape, UNTOUCHED), field.dtype)
    field[own(grid, stagger)] = filled(
        numbers(grid, grid.owned_shape(stagger), stagger, 0), field.dtype
    )
    return field


def filled(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values in every member of a structured dtype."""
    if not dtype.names:
        return values.astype(dtype)
    result = np.zeros(values.shape, dtype)
    for name in dtype.names:
        result[name] = values.reshape(values.shape + (1,) * (result[name].ndim - values.ndim))
    return result


def own(grid: Grid, stagger=0) -> tuple[slice, ...]:
    return tuple(
        slice(lo, lo + n) for (lo, _), n in zip(grid.width, grid.owned_shape(stagger), strict=True)
    )


def numbers(grid: Grid, shape, stagger, ghosts: int) -> np.ndarray:
    """Global numbers of the owned box, or (`ghosts` = 1) the local array; periodic cells wrap."""
    extents = grid.global_shape(stagger)
    index = [
        (np.arange(n) - ghosts * lo + first) % extent
        for n, (lo, _), first, extent in zip(shape, grid.width, grid.start, extents, strict=True)
    ]
    return 100 + np.ravel_multi_index(np.meshgrid(*index, indexing="ij"), extents)


def expected(grid: Grid, field: np.ndarray, stagger, corners: bool) -> np.ndarray:
    """What the field must hold after an exchange."""
    outside, real = np.zeros(field.shape, int), np.ones(field.shape, bool)
    for d, ((lo, _), n) in enumerate(zip(grid.width, grid.owned_shape(stagger), strict=True)):
        place = np.arange(field.shape[d]) - lo
        inside = (place + grid.start[d] >= 0) & (
            place + grid.start[d] < grid.global_shape(stagger)[d]
        )
        along = tuple(-1 if e == d else 1 for e in range(field.ndim))
        outside += ((place < 0) | (place >= n)).reshape(along)
        real &= (inside | grid.periodic[d]).reshape(along)
    reached = real & (outside <= (field.ndim if corners else 1))
    values = np.where(reached, numbers(grid, field.shape, stagger, 1), UNTOUCHED)
    return filled(values, field.dtype)
