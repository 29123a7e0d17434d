"""From distances to ticks: whole numbers, or, `rounding` 0, just scaled to the nearest float32."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from hpckit.cluster.kernels.intrinsics import (
    TILE,
    bits,
    bits32,
    mirrored,
    pointer_to,
    prefetch,
    scratch,
    transpose,
    value,
    value32,
)
from hpckit.native import export

_SQUARE = 128
_INFINITE = 0x7F800000  # bits of float32: from here on infinite, NaN or negative


@export("f8(f4*, i8, i8, i8, i8)", "f8(f8*, i8, i8, i8, i8)")
def largest(x, n0, n1, s0, s1):
    """Largest of x[i*s0 + j*s1]; infinite, NaN or negative as soon as one of them is."""
    top = types.uint64(0)
    for i in range(n0):
        for j in range(n1):
            other = bits(types.float64(x[i * s0 + j * s1]) + 0.0)  # + 0.0 makes -0.0 positive
            top = other if other > top else top
    return value(top)


@export("f8(f4*, i8, i8, i8, i8)")
def largest_symmetric(x, n, stride, part, parts):
    """Largest of x[i*stride + j]; infinite if one is no distance, or if x is not symmetric.

    Squares of _SQUARE objects, and their mirrors; this part has every `parts`-th row of squares.
    """
    top = types.uint32(0)
    for i0 in range(part * _SQUARE, n, parts * _SQUARE):
        i1 = n if n < i0 + _SQUARE else i0 + _SQUARE
        for j0 in range(i0, n, _SQUARE):
            j1 = n if n < j0 + _SQUARE else j0 + _SQUARE
            found = _largest_mirrored(x, i0, i1, j0, j1, stride)
            top = found if found > top else top
        if top > _INFINITE:
            break
    return types.float64(value32(top)) if top < _INFINITE else np.inf


@njit
def _largest_mirrored(x, i0, i1, j0, j1, stride):
    """Largest bits of a square, all ones if it is not the transpose of its mirror."""
    top = types.uint32(0)
    for i in range(i0, i1, 16):
        for j in range(j0, j1, 16):
            if i + 16 <= i1 and j + 16 <= j1:
                for a in range(16):
                    prefetch(x, (i + a) * stride + j + _SQUARE)
                    prefetch(x, (j + a + _SQUARE) * stride + i)
                found = mirrored(x, i * stride + j, j * stride + i, stride)
                top = found if found > top else top
            else:
                for a in range(i, i1 if i1 < i + 16 else i + 16):
                    for b in range(j, j1 if j1 < j + 16 else j + 16):
                        found, other = bits32(x[a * stride + b]), bits32(x[b * stride + a])
                        found = found if found == other else types.uint32(0xFFFFFFFF)
                        top = found if found > top else top
    return top


@njit(inline="always")
def tick(x, scale, rounding):
    """x * scale, to a whole number, halves to even, by rounding = 1.5 * 2**52; by 0 it is not."""
    return types.float32((types.float64(x) * scale + rounding) - rounding)


@njit
def _to_ticks_across(x, n0, n1, s1, scale, rounding, ticks, t0):
    """Transpose x[i + j*s1] by a scratch tile: reads and writes both run along rows."""
    tile = scratch(ticks)
    for i0 in range(0, n0, TILE):
        rows = min(TILE, n0 - i0)
        for j0 in range(0, n1, TILE):
            columns = min(TILE, n1 - j0)
            for j in range(columns):
                start = i0 + (j0 + j) * s1
                for i in range(rows):
                    tile[j * TILE + i] = tick(x[start + i], scale, rounding)
            if rows == TILE and columns == TILE:
                for i in range(0, TILE, 16):
                    for j in range(0, TILE, 16):
                        transpose(pointer_to(tile, j * TILE + i), ticks, (i0 + i) * t0 + j0 + j, t0)
            else:
                for i in range(rows):
                    start = (i0 + i) * t0 + j0
                    for j in range(columns):
                        ticks[start + j] = tile[j * TILE + i]


@njit
def _to_ticks_along(x, n0, n1, s0, scale, rounding, ticks, t0):
    """Rows through a scratch tile, so that LLVM vectorises although `ticks` may be `x`."""
    tile = scratch(ticks)
    for i in range(n0):
        for j0 in range(0, n1, TILE * TILE):
            columns = min(TILE * TILE, n1 - j0)
            for j in range(columns):
                tile[j] = tick(x[i * s0 + j0 + j], scale, rounding)
            for j in range(columns):
                ticks[i * t0 + j0 + j] = tile[j]


@export("void(f4*, i8, i8, i8, i8, f8, f8, f4*, i8)", "void(f8*, i8, i8, i8, i8, f8, f8, f4*, i8)")
def to_ticks(x, n0, n1, s0, s1, scale, rounding, ticks, t0):
    """ticks[i*t0 + j] = `tick` of x[i*s0 + j*s1]; `ticks` may be `x` if s1 = 1."""
    if s1 == 1:
        _to_ticks_along(x, n0, n1, s0, scale, rounding, ticks, t0)
    elif s0 == 1:
        _to_ticks_across(x, n0, n1, s1, scale, rounding, ticks, t0)
    else:
        for i in range(n0):
            for j in range(n1):
                ticks[i * t0 + j] = tick(x[i * s0 + j * s1], scale, rounding)


@export("void(f4*, i8, i8, i8, i8, i8, i8, i8*)", "void(f8*, i8, i8, i8, i8, i8, i8, i8*)")
def histogram(x, n0, n1, s0, s1, top, bins, counts):
    """Add to counts[i*bins + b] how many of row i are below 2**(top - b), and at least half of it.

    The last bin has all that are smaller.
    """
    for i in range(n0):
        for j in range(n1):
            x64 = types.float64(x[i * s0 + j * s1])
            if x64 > 0:
                b = top + 1022 - types.int64(bits(x64) >> types.uint64(52))
                counts[i * bins + max(0, min(b, bins - 1))] += (
                    1  # rounding may have put x above the largest
                )
