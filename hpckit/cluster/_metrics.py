"""Distances between points, in tiles whose bits do not depend on who computes them.

A matrix product rounds differently in blocks of different shapes. So the matrix is cut into tiles of 256 x 256 that
are anchored globally and padded with zeros, and only tiles (a, b) with a <= b are computed: whichever rank needs a
tile makes the very same call. The others are transposes, so the matrix is exactly symmetric.
"""

from __future__ import annotations

import math

import numpy as np

from hpckit import native
from hpckit.errors import ConfigError

TILE = 256
METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan", "chebyshev", "hamming")
_CANCELLED = 1e-6  # squared distances below this part of |x|^2 + |y|^2 are computed again, from differences


class Tiles:
    """Distances between all points of (n, d) float64, by tiles; `distance = value * 2**scale`.

    Points are scaled by a power of two, so that squares neither overflow nor vanish, and, where only differences
    matter, moved to their mean, so that |x|^2 + |y|^2 - 2 x.y loses few digits.
    """

    def __init__(self, points: np.ndarray, metric: str) -> None:
        n, self.dim = points.shape
        self.metric, self.scale = metric, 0
        self.count = -(-n // TILE)
        self._x = np.zeros((self.count * TILE, self.dim))
        self._x[:n] = points if metric == "hamming" else self._prepared(points)
        self._squares = np.einsum("ij,ij->i", self._x, self._x)
        self._tile = np.empty((TILE, TILE))
        self._kernels = native.load("hpckit.cluster.kernels.metrics")

    def tile(self, a: int, b: int) -> np.ndarray:
        """Distances of objects 256 a... (rows) to 256 b... (columns): (256, 256) float64, valid until the next call."""
        if a > b:
            return self.tile(b, a).T
        if self.metric in ("manhattan", "chebyshev", "hamming"):
            y = np.ascontiguousarray(self._points(b).T)
            kernel = getattr(self._kernels, self.metric)
            kernel(native.address(self._points(a)), native.address(y), TILE, self.dim, native.address(self._tile))
            if self.metric == "hamming":
                self._tile /= self.dim
        else:
            self._square_distances(a, b)
            if self.metric == "euclidean":
                np.sqrt(self._tile, out=self._tile)
            elif self.metric == "cosine":
                self._tile *= 0.5  # 1 - x.y = |x - y|^2 / 2 for unit vectors
        return self._tile

    def _prepared(self, points: np.ndarray) -> np.ndarray:
        if self.metric == "cosine":
            return _unit_vectors(points)
        exponent = math.frexp(np.abs(points).max())[1]
        self.scale = 2 * exponent if self.metric == "sqeuclidean" else exponent
        scaled = np.ldexp(points, -exponent)
        return scaled - scaled.mean(axis=0) if self.metric in ("euclidean", "sqeuclidean") else scaled

    def _points(self, a: int) -> np.ndarray:
        return self._x[a * TILE : (a + 1) * TILE]

    def _square_distances(self, a: int, b: int) -> None:
        x, y = self._points(a), self._points(b)
        xx, yy = (self._squares[t * TILE : (t + 1) * TILE] for t in (a, b))
        np.matmul(x, y.T, out=self._tile)
        self._tile *= -2
        self._tile += xx[:, None]
        self._tile += yy
        self._kernels.refine(
            *map(native.address, (x, y, xx, yy)), TILE, self.dim, _CANCELLED, native.address(self._tile)
        )


def _unit_vectors(points: np.ndarray) -> np.ndarray:
    largest = np.abs(points).max(axis=1, keepdims=True)
    if not largest.all():
        zero = int(np.flatnonzero(largest == 0)[0])
        raise ConfigError(f"point {zero} is zero and has no direction: metric='cosine' needs points other than zero")
    scaled = points / largest
    return scaled / np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
