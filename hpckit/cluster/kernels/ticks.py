"""From distances to whole numbers of ticks."""

from __future__ import annotations

from numba import njit, types

from hpckit.cluster.kernels.intrinsics import TILE, bits, pointer_to, scratch, transpose, value
from hpckit.native import export

_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding and subtracting it rounds to a whole number, halves to even


@export("f8(f4*, i8, i8, i8, i8)", "f8(f8*, i8, i8, i8, i8)")
def largest(x, n0, n1, s0, s1):
    """Largest of x[i*s0 + j*s1]; infinite, NaN or negative as soon as one of them is."""
    top = types.uint64(0)
    for i in range(n0):
        for j in range(n1):
            other = bits(types.float64(x[i * s0 + j * s1]) + 0.0)  # + 0.0 makes -0.0 positive
            top = other if other > top else top
    return value(top)


@njit(inline="always")
def whole(x, scale):
    return types.float32((types.float64(x) * scale + _ROUND) - _ROUND)


@njit
def _to_ticks_across(x, n0, n1, s1, scale, ticks, t0):
    """Transpose x[i + j*s1] by tiles; the scratch tile lets both the reads and the writes run along rows."""
    tile = scratch(ticks)
    for i0 in range(0, n0, TILE):
        rows = min(TILE, n0 - i0)
        for j0 in range(0, n1, TILE):
            columns = min(TILE, n1 - j0)
            for j in range(columns):
                start = i0 + (j0 + j) * s1
                for i in range(rows):
                    tile[j * TILE + i] = whole(x[start + i], scale)
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
def _to_ticks_along(x, n0, n1, s0, scale, ticks, t0):
    """Rows, piece by piece through the scratch tile, so that LLVM vectorises although `ticks` may be `x`."""
    tile = scratch(ticks)
    for i in range(n0):
        for j0 in range(0, n1, TILE * TILE):
            columns = min(TILE * TILE, n1 - j0)
            for j in range(columns):
                tile[j] = whole(x[i * s0 + j0 + j], scale)
            for j in range(columns):
                ticks[i * t0 + j0 + j] = tile[j]


@export("void(f4*, i8, i8, i8, i8, f8, f4*, i8)", "void(f8*, i8, i8, i8, i8, f8, f4*, i8)")
def to_ticks(x, n0, n1, s0, s1, scale, ticks, t0):
    """ticks[i*t0 + j] = round(x[i*s0 + j*s1] * scale); `ticks` may be `x` if s1 = 1."""
    if s1 == 1:
        _to_ticks_along(x, n0, n1, s0, scale, ticks, t0)
    elif s0 == 1:
        _to_ticks_across(x, n0, n1, s1, scale, ticks, t0)
    else:
        for i in range(n0):
            for j in range(n1):
                ticks[i * t0 + j] = whole(x[i * s0 + j * s1], scale)
