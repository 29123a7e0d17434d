"""The distances of all objects to a rank's own candidates, in ticks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hpckit import native
from hpckit.cluster import _quant
from hpckit.cluster._input import Problem
from hpckit.cluster._metrics import TILE, Tiles
from hpckit.cluster._ranks import Ranks

LANES = 64  # rows of candidates are padded to whole masks of the kernel `evaluate`


class Rows(NamedTuple):
    """Row number c of those asked for is table[places[c]], valid until the next call.

    table : (any, length) float32, rows contiguous; places : (how many,) int64
    """

    table: np.ndarray
    places: np.ndarray

    @property
    def at(self) -> tuple[int, int, int]:
        """As kernels take them: address of the table, length of its rows, address of the places."""
        return native.address(self.table), self.table.strides[0] // 4, native.address(self.places)


@dataclass(frozen=True)
class Distances(ABC):
    """D[o, j] of n objects to the candidates first <= j < first + m of this rank, out of `candidates` on all.

    by_candidate : rows are those of candidates, n long with zeros up to whole `LANES`; else those of objects, m long
    exponent : a tick is 2**exponent
    at_once : most rows to ask for in one call, other than a block of candidates
    """

    n: int
    candidates: int
    first: int
    m: int
    by_candidate: bool
    exponent: int
    at_once: int

    @abstractmethod
    def rows(self, items: np.ndarray) -> Rows:
        """The rows of these candidates of this rank, or of these objects, (any,) int64."""

    @abstractmethod
    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        """Distances of all objects to candidate j, on all ranks, into (n,) float32 (collective)."""

    def part(self, objects: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(objects, candidates) float32, the distances between them; candidates of this rank."""
        table, places = self.rows(candidates if self.by_candidate else objects)
        if self.by_candidate:
            return table[np.ix_(places, objects)].T
        return table[np.ix_(places, candidates - self.first)]

    def pieces(self, items: np.ndarray) -> Iterator[tuple[int, Rows]]:
        """All rows of `items`, as many at once as there is room for: where a piece starts in them, and its rows."""
        for start in range(0, len(items), self.at_once):
            yield start, self.rows(items[start : start + self.at_once])


@dataclass(frozen=True)
class Stored(Distances):
    """All in memory. ticks : float32; (m, padded n) if `by_candidate`, else (n, m)."""

    ticks: np.ndarray

    @property
    def view(self) -> np.ndarray:
        """(n, m): the distance of object o to candidate first + j at [o, j], whatever the layout."""
        return self.ticks[:, : self.n].T if self.by_candidate else self.ticks

    def rows(self, items: np.ndarray) -> Rows:
        return Rows(self.ticks, items - self.first if self.by_candidate else items)

    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        if self.first <= j < self.first + self.m:
            column[:] = self.view[:, j - self.first]
        ranks.share(column, self.candidates, j)


def load(problem: Problem, *, by_candidate: bool) -> Distances:
    """This rank's distances (collective)."""
    data, metric, ranks, n = problem.data, problem.metric, problem.ranks, problem.n
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
    return Stored(n, n, first, m, by_candidate, exponent + scale, max(n, m), ticks)


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
