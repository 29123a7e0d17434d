"""The distances that a rank keeps: those of all objects to its own candidates, in ticks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpckit.cluster import _quant
from hpckit.cluster._metrics import TILE, Tiles
from hpckit.cluster._ranks import Ranks

LANES = 64  # rows of candidates are padded to whole masks of the kernel `evaluate`


@dataclass(frozen=True)
class Distances:
    """D[o, j] of all n objects to the candidates first <= j < first + m of this rank.

    ticks : float32; (m, padded n) with a row for each candidate if `by_candidate`, else (n, m) with one for each object
    exponent : a tick is 2**exponent
    """

    ticks: np.ndarray
    n: int
    first: int
    m: int
    by_candidate: bool
    exponent: int

    @property
    def view(self) -> np.ndarray:
        """(n, m): the distance of object o to candidate first + j at [o, j], whatever the layout."""
        return self.ticks[:, : self.n].T if self.by_candidate else self.ticks

    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        """Distances of all objects to candidate j, on all ranks, into (n,) float32 (collective)."""
        if self.first <= j < self.first + self.m:
            column[:] = self.view[:, j - self.first]
        ranks.share(column, self.n, j)


def load(data: np.ndarray, metric: str, ranks: Ranks, *, by_candidate: bool) -> Distances:
    """This rank's distances from a matrix (n, n), float32 or float64, or from points (n, d) float64 (collective)."""
    n = len(data)
    first, stop = ranks.block(n)
    m = stop - first
    scale, top = 0, 0.0
    ticks = mine = given = np.empty((0, 0), np.float32)
    with ranks.together():  # the largest array of all: there may be no room for it
        ticks = np.empty((m, -(-n // LANES) * LANES) if by_candidate else (n, m), np.float32)
        mine = ticks[:, :n] if by_candidate else ticks
        if metric == "precomputed":
            given = data[:, first:stop].T if by_candidate else data[:, first:stop]
        else:
            tiles = Tiles(data, metric)
            scale, given = tiles.scale, mine
            _fill(tiles, mine.T if by_candidate else mine, first)
        top = _quant.largest(given)
    exponent = _quant.exponent(ranks.maximum(top), _quant.DISTANCE_BITS, "largest distance", scale)
    _quant.to_ticks(given, exponent, mine)
    ticks[:, mine.shape[1] :] = 0
    return Distances(ticks, n, first, m, by_candidate, exponent + scale)


def _fill(tiles: Tiles, view: np.ndarray, first: int) -> None:
    """All tiles that touch candidates first... into view[o, j]; a tile between two own blocks is computed once."""
    m = view.shape[1]
    own = range(first // TILE, -(-(first + m) // TILE) if m else first // TILE)
    for b in own:
        for a in range(tiles.count):
            if a > b and a in own:
                continue  # its transpose is or will be computed
            values = tiles.tile(a, b)
            _place(view, values, a, b, first)
            if a != b and a in own:
                _place(view, values.T, b, a, first)


def _place(view: np.ndarray, values: np.ndarray, a: int, b: int, first: int) -> None:
    """The part of tile (a, b) that lies within view[o, j], which begins at candidate `first`."""
    n, m = view.shape
    o, j = a * TILE, b * TILE
    lo, hi = max(j, first), min(j + TILE, first + m)
    view[o : o + TILE, lo - first : hi - first] = values[: n - o, lo - j : hi - j]
