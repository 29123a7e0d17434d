"""The distances of all objects to a rank's own candidates, in ticks."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from hpckit import native
from hpckit.cluster import metrics, quantization
from hpckit.cluster.inputs import Problem
from hpckit.cluster.matrix import Matrix
from hpckit.cluster.pairs import LANES, Pairs, pairs_of
from hpckit.cluster.ranks import Ranks
from hpckit.cluster.ticks_file import TicksFile
from hpckit.comm import partition
from hpckit.errors import ConfigError
from hpckit.log import get_logger

LANES = LANES  # rows of candidates are padded to whole masks of the kernel `evaluate`
_AT_ONCE = 2**22  # distances computed at once that are not kept
_SAMPLE = 64  # candidates of each rank among which symmetry is looked for
_LOST = (
    "some distances are above 0, but less than 2**-250 of the largest, and would vanish beside it: "
    "set them to 0, or"
    " replace the largest by a smaller one that is still above all that matter, or take the "
    "outlier out"
)
_LOG = get_logger(__name__)


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
    """D[o, j] of n objects to this rank's candidates first <= j < first + m, of `candidates`.

    objects : (n,) int64, ascending, those of all that are numbered 0 to n - 1 here
    by_candidate : rows are those of candidates, n long with zeros up to whole `LANES`; else those
        of objects, m long
    exponent : a tick is 2**exponent
    wide : rows are any float32, not whole numbers of ticks; see `quantization`
    scale : what rows are multiplied by, and then rounded, to be ticks; 1 for all but `InPlace`
    at_once : most rows to ask for in one call, other than a block of candidates
    """

    objects: np.ndarray
    candidates: int
    first: int
    m: int
    by_candidate: bool
    exponent: int
    wide: bool
    at_once: int

    @property
    def n(self) -> int:
        """How many objects."""
        return len(self.objects)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def far(self) -> float:
        """No distance is larger."""
        return quantization.WIDE_FAR if self.wide else quantization.FAR

    def sums(self, *shape: int) -> np.ndarray:
        """Room for exact sums, all 0: float64 of `shape`, or uint64 with one more axis."""
        return np.zeros((*shape, quantization.LIMBS), np.uint64) if self.wide else np.zeros(shape)

    def nearest(self, sums: np.ndarray) -> np.ndarray:
        """The float64 that are nearest to sums."""
        if not self.wide:
            return sums
        found = np.empty(sums.shape[:-1])
        self.kernels("").values(native.address(sums), found.size, native.address(found))
        return found

    def total(self, sums: np.ndarray, ranks: Ranks) -> np.ndarray:
        """The float64 nearest to the sums of all ranks, none of them negative (collective)."""
        if not self.wide:
            ranks.add(sums)
            return sums
        halves = sums.view(np.uint32).astype(np.int64)
        ranks.add(halves)
        for half in range(halves.shape[-1] - 1):
            halves[..., half + 1] += halves[..., half] >> 32
        return self.nearest(halves.astype(np.uint32).view(np.uint64))

    def kernels(self, name: str) -> SimpleNamespace:
        """The kernels of this module that add distances up."""
        return native.load(f"hpckit.cluster.kernels.{'wide' if self.wide else name}")

    @abstractmethod
    def rows(self, items: np.ndarray) -> Rows:
        """The rows of these candidates of this rank, or of these objects, (any,) int64."""

    @abstractmethod
    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        """Distances of all objects to candidate j, on all ranks, into (n,) float32 (collective)."""

    def part(self, objects: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(objects, candidates) float32, the distances between them; candidates of this rank."""
        table, places = self.rows(candidates if self.by_candidate else objects)
        columns = objects if self.by_candidate else candidates - self.first
        ticks = table[np.ix_(places, columns)]
        ticks = ticks if self.wide else np.rint(ticks * np.float32(self.scale))
        return ticks.T if self.by_candidate else ticks

    def pieces(self, items: np.ndarray) -> Iterator[tuple[int, Rows]]:
        """All rows of `items`, as many at once as have room: where a piece starts, and its rows."""
        for start in range(0, len(items), self.at_once):
            yield start, self.rows(items[start : start + self.at_once])


@dataclass(frozen=True)
class Stored(Distances):
    """In memory, or in a file that is mapped into it.

    ticks : float32; (m, padded n) if `by_candidate`, else (n, m).
    """

    ticks: np.ndarray

    @property
    def view(self) -> np.ndarray:
        """(n, m): the distance of object o to candidate first + j at [o, j], in any layout."""
        return self.ticks[:, : self.n].T if self.by_candidate else self.ticks

    def rows(self, items: np.ndarray) -> Rows:
        return Rows(self.ticks, items - self.first if self.by_candidate else items)

    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        if self.first <= j < self.first + self.m:
            column[:] = self.view[:, j - self.first]
        ranks.share(column, self.candidates, j)


@dataclass(frozen=True)
class Computed(Distances):
    """Not kept, but computed each time they are asked for, to the very same bits."""

    points: _Points
    tables: list[np.ndarray] = field(
        default_factory=list
    )  # one: the last rows, and room for as many as ever asked for

    def rows(self, items: np.ndarray) -> Rows:
        if not self.tables or len(self.tables[0]) < len(items):
            self.tables[:] = [np.zeros((len(items), self.points.width), np.float32)]
        which = items if self.by_candidate else self.points.objects[items]
        self.points.compute(which, self.exponent, self.tables[0], wide=self.wide)
        return Rows(self.tables[0], np.arange(len(items)))

    def fetch(self, j: int, column: np.ndarray, ranks: Ranks) -> None:
        self.points.to_objects.fill(np.array([j]), self.exponent, column[None], wide=self.wide)


def load_distances(
    problem: Problem, *, by_candidate: bool, objects: np.ndarray | None = None
) -> Distances:
    """Distances of `objects`, ascending, or else of all, to this rank's candidates (collective).

    Raises `ConfigError` on all ranks: values that are no distances, units out of range, a file that
    cannot be made.
    """
    ranks = problem.ranks
    some = np.arange(problem.n) if objects is None else objects
    source = (Given if isinstance(problem.data, Matrix) else _Points)(problem, some, by_candidate)
    top = 0.0
    with ranks.together():
        top = source.largest()
    top, size = ranks.maximum(top), ("largest distance", source.scale)
    exponent = quantization.exponent(top, quantization.DISTANCE_BITS, *size)
    if wide := source.too_coarse(top):
        exponent = quantization.exponent(top, quantization.WIDE_BITS, *size)
    exponent += source.scale
    shape = some, problem.n, source.first, source.m, by_candidate, exponent, wide
    if isinstance(source, _Points) and source.on_demand():
        return Computed(*shape, max(LANES, _AT_ONCE // max(1, source.width)), source)
    stored = Stored(*shape, max(len(some), source.m), source.stored(exponent, wide))
    if objects is None and problem.metric not in metrics.WITH_KERNEL:
        look_over(stored.view[stored.first : stored.first + stored.m], ranks)
    return stored


class _Source(ABC):
    """Where this rank's distances come from.

    rows, columns : own candidates and objects, in this order if `by_candidate`; width : that of a
        row, padded
    """

    scale = 0

    def __init__(self, problem: Problem, objects: np.ndarray, by_candidate: bool) -> None:
        self.problem = problem
        self.ranks = problem.ranks
        self.data = problem.data
        self.objects = objects
        self.by_candidate = by_candidate
        self.first, stop = self.ranks.block(problem.n)
        self.m = stop - self.first
        own = np.arange(self.first, stop)
        self.rows, self.columns = (own, objects) if by_candidate else (objects, own)
        self.width = -(-len(objects) // LANES) * LANES if by_candidate else self.m

    @abstractmethod
    def largest(self) -> float:
        """Of all ranks, the largest is no less than any distance, in units of 2**scale."""

    def too_coarse(self, top: float) -> bool:
        """Whether distances must be wide, `top` being the largest of all (collective)."""
        length = self.problem.n if self.by_object else len(self.objects)
        some = quantization.sample(
            len(self.objects) if self.by_object else self.problem.n, length, self.problem.k
        )
        counts = np.zeros((len(some), quantization.BINS), np.int64)
        if top:
            self.count(some, top, counts)
        self.ranks.add(counts)
        return quantization.coarse(counts, length, self.problem.k)

    @property
    def by_object(self) -> bool:
        """Whether `count` takes rows of objects."""
        return not self.by_candidate

    @abstractmethod
    def count(self, some: np.ndarray, top: float, counts: np.ndarray) -> None:
        """Into counts[p] this rank's `quantization.histogram` of row some[p] (collective)."""

    @abstractmethod
    def fill(self, exponent: int, ticks: np.ndarray, wide: bool) -> None:
        """All rows in ticks of 2**exponent (collective)."""

    @property
    def content(self) -> str | None:
        """What tells these distances from others; None: nothing short does."""
        return None

    def stored(self, exponent: int, wide: bool) -> np.ndarray:
        """All rows, in memory or in the file that `memory` names (collective)."""
        file, ticks = None, np.empty((0, 0), np.float32)
        if isinstance(self.problem.memory, Path):
            n, mine = self.problem.n, slice(self.first, self.first + self.m)
            shape = (n, self.width) if self.by_candidate else (len(self.objects), n)
            file = TicksFile(self.problem.memory, shape, self.content, exponent, self.ranks)
            ticks = file.ticks[mine] if self.by_candidate else file.ticks[:, mine]
            if file.complete:
                return ticks
        else:
            with self.ranks.together():  # the largest array of all: there may be no room for it
                ticks = np.empty((len(self.rows), self.width), np.float32)
        self.fill(exponent, ticks, wide)
        ticks[:, len(self.columns) :] = 0
        if file:
            file.finish()
        return ticks


class Given(_Source):
    """From a matrix."""

    def largest(self) -> float:
        return self.data.largest(self.objects, self.first, self.first + self.m)

    @property
    def by_object(self) -> bool:
        return True  # what `pieces` yields

    def count(self, some: np.ndarray, top: float, counts: np.ndarray) -> None:
        for p, values in self.data.pieces(self.objects[some], self.first, self.first + self.m):
            quantization.histogram(values, top, counts[p : p + len(values)])

    def fill(self, exponent: int, ticks: np.ndarray, wide: bool) -> None:
        lost = False
        for p, values in self.data.pieces(self.objects, self.first, self.first + self.m):
            part = slice(p, p + len(values))
            values, into = (
                (values.T, ticks[:, part]) if self.by_candidate else (values, ticks[part])
            )
            quantization.to_ticks(values, exponent, into, wide=wide)
            lost |= wide and bool(np.count_nonzero(into) < np.count_nonzero(values))
        if wide and self.ranks.maximum(float(lost)):
            raise ConfigError(_LOST)


class _Points(_Source):
    """From points."""

    @cached_property
    def pairs(self) -> Pairs:
        """Of rows to columns."""
        return pairs_of(
            self.data, self.problem.metric, self.columns, by_candidate=self.by_candidate
        )

    @cached_property
    def to_objects(self) -> Pairs:
        """Of candidates to the objects."""
        if self.by_candidate:
            return self.pairs
        return pairs_of(self.data, self.problem.metric, self.objects, by_candidate=True)

    def largest(self) -> float:
        self.scale = self.pairs.scale
        return self.pairs.largest(self.rows)

    def count(self, some: np.ndarray, top: float, counts: np.ndarray) -> None:
        exponent = quantization.exponent(
            top, quantization.WIDE_BITS, "largest distance", self.scale
        )
        places = (
            np.flatnonzero(np.isin(some, self.rows)) if self.by_candidate else np.arange(len(some))
        )
        rows = some[places] if self.by_candidate else self.objects[some]
        with self.ranks.together():
            step = max(1, _AT_ONCE // max(1, self.width))
            for p in range(0, len(rows), step):
                part, counted = (
                    rows[p : p + step],
                    np.zeros((len(rows[p : p + step]), quantization.BINS), np.int64),
                )
                table = np.zeros((len(part), self.width), np.float32)
                self.compute(part, exponent + self.scale, table, wide=True)
                self._find_lost(part, table)
                quantization.histogram(table, math.ldexp(top, -exponent), counted)
                counts[places[p : p + step]] = counted

    def _find_lost(self, rows: np.ndarray, table: np.ndarray) -> None:
        """`ConfigError` where points that differ are at distance 0."""
        found = metrics.definition(self.problem.metric)
        if found is None or not found.tells_apart:
            return
        for row, distances in zip(rows, table, strict=True):
            near = self.columns[distances[: len(self.columns)] == 0]
            if (self.data[near] != self.data[row]).any():
                raise ConfigError(_LOST)

    def fill(self, exponent: int, ticks: np.ndarray, wide: bool) -> None:
        with self.ranks.together():
            self.compute(self.rows, exponent, ticks, wide=wide)

    def compute(self, points: np.ndarray, exponent: int, table: np.ndarray, *, wide: bool) -> None:
        """The rows of these points, by all threads."""
        starts = partition.starts(len(points), self.ranks.threads)

        def part(thread: int) -> None:
            mine = slice(starts[thread], starts[thread + 1])
            self.pairs.fill(points[mine], exponent, table[mine], wide=wide)

        self.ranks.each(part)

    @property
    def content(self) -> str | None:
        metric = self.problem.metric
        if not isinstance(metric, str):
            return None
        checksums = (zlib.crc32(np.ascontiguousarray(array)) for array in (self.data, self.objects))
        return (
            f"{metric} {'by candidate' if self.by_candidate else 'by object'} "
            f"{' '.join(map(str, checksums))}"
        )

    def on_demand(self) -> bool:
        """Whether not to keep them: half of the free memory is not enough (collective)."""
        if self.problem.memory != "auto":
            return self.problem.memory == "free"
        import psutil

        free = psutil.virtual_memory().available / self.ranks.on_this_node
        return self.ranks.maximum(8 * len(self.rows) * self.width / free) > 1


def look_over(own: np.ndarray, ranks: Ranks) -> None:
    """Warn of what is allowed, but seldom meant in distances of own objects to own candidates."""
    some = np.arange(0, len(own), len(own) // _SAMPLE + 1)
    sample = own[np.ix_(some, some)]
    found = own.diagonal(), sample != sample.T
    diagonal, asymmetric = (ranks.maximum(float(each.any())) for each in found)
    if diagonal and ranks.rank == 0:
        _LOG.warning(
            "some objects are not at distance 0 from themselves: their medoid may be another object"
        )
    if asymmetric and ranks.rank == 0:
        _LOG.warning(
            "the distances are not symmetric: D[o, j] is what it costs to serve object o by medoid "
            "j"
        )
