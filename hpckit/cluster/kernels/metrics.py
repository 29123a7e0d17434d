"""Ticks between points: out[i*stride + j] of x[i*dim + c] and y[(block*dim + c)*LANES + lane].

Column j is block*LANES + lane. The coordinates c of a pair are gone through in their order,
whatever surrounds it: vectors run across columns, and two rows share what they load. `scale` is the
number of ticks in one unit, and `rounding` that of `tick`.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from hpckit.cluster.kernels.intrinsics import LANES
from hpckit.cluster.kernels.ticks import tick
from hpckit.native import export


@intrinsic
def _fused(typing, a, b, c):
    """a*b + c, rounded once."""
    return types.float64(a, b, c), lambda _, builder, __, args: builder.fma(*args)


@intrinsic
def _lane_sums(typing, like):
    """Room for LANES values, in registers."""

    def codegen(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, ir.DoubleType(), size=LANES)

    return like(like), codegen


def _pairs(add, end):
    """The loop that metrics share: `add(sum, difference)` over coordinates, then `end(sum)`."""

    @njit
    def store(sums, count, scale, rounding, out, at):
        if count >= LANES:
            for lane in range(LANES):
                out[at + lane] = tick(end(sums[lane]), scale, rounding)
        else:
            for lane in range(count):
                out[at + lane] = tick(end(sums[lane]), scale, rounding)

    @njit
    def fill(x, rows, y, columns, dim, scale, rounding, out, stride):
        one, two = _lane_sums(x), _lane_sums(x)
        for block in range((columns + LANES - 1) // LANES):
            first = block * LANES
            for pair in range((rows + 1) // 2):
                i = 2 * pair
                k = i + 1 if i + 1 < rows else i
                for lane in range(LANES):
                    one[lane] = 0.0
                    two[lane] = 0.0
                for c in range(dim):
                    a, b = x[i * dim + c], x[k * dim + c]
                    start = (first * dim) + c * LANES
                    for lane in range(LANES):
                        one[lane] = add(one[lane], a - y[start + lane])
                        two[lane] = add(two[lane], b - y[start + lane])
                store(one, columns - first, scale, rounding, out, i * stride + first)
                store(two, columns - first, scale, rounding, out, k * stride + first)

    return fill


_itself = njit(lambda total: total)
_square = njit(lambda total, difference: _fused(difference, difference, total))
_sum = njit(lambda total, difference: total + abs(difference))
_largest = njit(lambda total, difference: abs(difference) if abs(difference) > total else total)
_count = njit(lambda total, difference: total + (1.0 if difference != 0 else 0.0))

_euclidean = _pairs(_square, njit(lambda total: math.sqrt(total)))
_sqeuclidean = _pairs(_square, _itself)
_manhattan = _pairs(_sum, _itself)
_chebyshev = _pairs(_largest, _itself)
_hamming = _pairs(_count, _itself)
_PAIRS = "void(f8*, i8, f8*, i8, i8, f8, f8, f4*, i8)"


@export(_PAIRS)
def euclidean(x, rows, y, columns, dim, scale, rounding, out, stride):
    """Root of the sum of the squared differences."""
    _euclidean(x, rows, y, columns, dim, scale, rounding, out, stride)


@export(_PAIRS)
def sqeuclidean(x, rows, y, columns, dim, scale, rounding, out, stride):
    """Sum of the squared differences."""
    _sqeuclidean(x, rows, y, columns, dim, scale, rounding, out, stride)


@export(_PAIRS)
def manhattan(x, rows, y, columns, dim, scale, rounding, out, stride):
    """Sum of the differences."""
    _manhattan(x, rows, y, columns, dim, scale, rounding, out, stride)


@export(_PAIRS)
def chebyshev(x, rows, y, columns, dim, scale, rounding, out, stride):
    """The largest difference."""
    _chebyshev(x, rows, y, columns, dim, scale, rounding, out, stride)


@export(_PAIRS)
def hamming(x, rows, y, columns, dim, scale, rounding, out, stride):
    """Number of coordinates that differ."""
    _hamming(x, rows, y, columns, dim, scale, rounding, out, stride)
