"""Tiles of distances: tile[i*t + j] from objects x[i*dim + c] and, transposed, y[c*t + j]."""

from __future__ import annotations

from numba import njit

from hpckit.native import export


def _by_coordinates(combine):
    @njit
    def fill(x, y, t, dim, tile):
        for i in range(t):
            for j in range(t):
                tile[i * t + j] = 0.0
            for c in range(dim):
                a = x[i * dim + c]
                for j in range(t):
                    tile[i * t + j] = combine(tile[i * t + j], abs(a - y[c * t + j]))

    return fill


_sum = _by_coordinates(njit(lambda total, difference: total + difference))
_largest = _by_coordinates(njit(lambda total, difference: max(total, difference)))
_count = _by_coordinates(njit(lambda total, difference: total + (1.0 if difference != 0 else 0.0)))
_TILE = "void(f8*, f8*, i8, i8, f8*)"


@export(_TILE)
def manhattan(x, y, t, dim, tile):
    """Sum of |x - y|, coordinate after coordinate."""
    _sum(x, y, t, dim, tile)


@export(_TILE)
def chebyshev(x, y, t, dim, tile):
    """Largest |x - y|."""
    _largest(x, y, t, dim, tile)


@export(_TILE)
def hamming(x, y, t, dim, tile):
    """Number of coordinates that differ."""
    _count(x, y, t, dim, tile)


@export("void(f8*, f8*, f8*, f8*, i8, i8, f8, f8*)")
def refine(x, y, xx, yy, t, dim, tolerance, tile):
    """Squared distances that lost their digits in |x|^2 + |y|^2 - 2 x.y, again from the differences.

    Those below tolerance * (xx[i] + yy[j]); y[j*dim + c] is not transposed here.
    """
    for i in range(t):
        for j in range(t):
            if tile[i * t + j] < tolerance * (xx[i] + yy[j]):
                square = 0.0
                for c in range(dim):
                    difference = x[i * dim + c] - y[j * dim + c]
                    square += difference * difference
                tile[i * t + j] = square
