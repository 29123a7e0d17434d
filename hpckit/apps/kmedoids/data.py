"""What `hpckit.apps.kmedoids` clusters: points or distances, read or generated, rows by rank."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hpckit.comm.partition import block
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.kmedoids.config import Config, Generate

_CHUNK = 1 << 14  # points that are generated at once: the same ones whichever rank does it


def shape(config: Config, ranks: int) -> tuple[int, int]:
    """Rows and columns of the data of a run on so many ranks; looks into the input, without MPI."""
    if not config.input:
        _refuse_matrix(config)
        return points(config.generate, ranks), config.generate.dimension
    from pathlib import Path

    from hpckit.io.formats import find

    rows, *columns = find(
        Path(config.input), config.variable or None, config.columns
    ).location.shape
    return rows, math.prod(columns)


class Table:
    """Rows of points or of distances, one for each of n objects, in blocks over the ranks.

    rows : (m, columns), those of objects start <= o < start + m
    """

    def __init__(self, comm: MPI.Intracomm, config: Config) -> None:
        """Read or generate it (collective); `ConfigError` on all ranks where that fails."""
        self._comm = comm
        if config.input:
            from hpckit.io.input import read_rows

            self.rows = read_rows(config.input, comm, config.variable or None, config.columns)
        else:
            _refuse_matrix(config)
            n = points(config.generate, comm.size)
            self.rows = generate(config.generate, *block(n, comm.size, comm.rank))
        self.n = comm.allreduce(len(self.rows))
        self.start = block(self.n, comm.size, comm.rank)[0]

    def take(self, objects: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray | None:
        """These different rows, (s,) int64, perhaps only these columns, on rank 0 (collective)."""
        order = np.argsort(objects)
        low, high = np.searchsorted(objects[order], [self.start, self.start + len(self.rows)])
        mine = self.rows[objects[order[low:high]] - self.start]
        parts = self._comm.gather(mine if columns is None else mine[:, columns])
        return np.concatenate(parts)[np.argsort(order)] if parts else None


def distances(sample: np.ndarray, metric: str, some: np.ndarray) -> np.ndarray:
    """(s, m) float64, from all of a sample, points (s, d) or distances (s, s), to m of them."""
    from hpckit.cluster import inputs
    from hpckit.cluster.distances import load_distances

    stored = load_distances(inputs.check(sample, 1, init="first", metric=metric), by_candidate=True)
    return np.ldexp(stored.part(np.arange(len(sample)), some).astype(np.float64), stored.exponent)


def points(config: Generate, ranks: int) -> int:
    """How many points there are: with `per_rank`, n^2 / ranks is the same for all ranks."""
    return round(config.n * math.sqrt(ranks)) if config.per_rank else config.n


def generate(config: Generate, start: int, stop: int) -> np.ndarray:
    """Points start <= o < stop, (stop - start, dimension) float32, in normal clouds."""
    whole = np.random.default_rng(config.seed)
    middles = config.spread * whole.standard_normal((config.clouds, config.dimension))
    shares = whole.dirichlet(np.full(config.clouds, 2.0))
    rows = np.empty((stop - start, config.dimension), np.float32)
    for number in range(start // _CHUNK, -(-stop // _CHUNK)):
        chunk = np.random.default_rng([config.seed, number + 1])
        cloud = chunk.choice(config.clouds, _CHUNK, p=shares)
        values = middles[cloud] + chunk.standard_normal((_CHUNK, config.dimension))
        first = number * _CHUNK
        low, high = max(start, first), min(stop, first + _CHUNK)
        rows[low - start : high - start] = values[low - first : high - first]
    return rows


def _refuse_matrix(config: Config) -> None:
    if config.metric == "precomputed":
        raise ConfigError("metric = 'precomputed' needs an input, the file with the distances")
