"""`--dry-run` of `hpckit.apps.kmedoids`: what a run would need; arithmetic only, no MPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpckit.apps.kmedoids.data import shape
from hpckit.errors import ConfigError
from hpckit.program.report import PROCESS
from hpckit.units import amount

if TYPE_CHECKING:
    from hpckit.apps.kmedoids.config import Config

_TICK = 4  # bytes of a distance
_STATE = 60  # bytes that every rank keeps of each candidate and judge, but for its distances
_COPIES = 4  # of the points that every rank has for a while
_COPIED = (
    256 << 20
)  # bytes of which ranks together, after fasterpam, make a copy to see how fast memory is
_DRAWING = 85e6  # bytes that rank 0 needs to draw
_PASSES = 4  # that eager searches make, as a rule
_JUDGE = 0.8e-9  # seconds for a distance that is read
_COMPUTE, _COORDINATE = (
    0.7e-9,
    0.03e-9,
)  # and for one that is computed from points, and each of their coordinates


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, with a core of 2024 for each; for people."""
    n, dimension = shape(config, ranks)
    if config.k > n:
        raise ConfigError(f"k = {config.k}, but there are only {n} objects: --k must be 1 to {n}")
    candidates, judges = _searched(config, n)
    pairs = math.ceil(candidates / ranks) * judges
    matrix, stored = config.metric == "precomputed", config.memory in ("auto", "matrix")
    given = 8 * n * dimension * (1 / ranks if matrix else _COPIES)
    state = candidates * _STATE + judges * (_STATE + _TICK * config.k)
    memory = PROCESS + given + state + pairs * _TICK * stored
    if config.method == "pam":
        memory += 8 * config.k * math.ceil(candidates / ranks)
    if config.method == "fasterpam":  # its distances are gone by then
        memory = max(memory, PROCESS + 2 * min(pairs * _TICK, _COPIED / ranks))
    first = max(memory, PROCESS + _DRAWING) if config.pictures else memory
    drawing = f", {amount(first)} on rank 0, which draws" if first > memory else ""
    each = _COMPUTE if matrix else _COMPUTE + _COORDINATE * dimension
    compute = pairs * each * (1 if stored else _PASSES)
    whole = memory * (ranks - 1) + first
    searching = _PASSES * pairs * _JUDGE
    where = "" if stored else ", computed whenever they are needed"
    rows = {
        "data": f"{n:,} x {dimension:,} on {ranks} ranks",
        "search": f"{config.k} medoids by {config.method}, {config.metric}",
        "distances": f"{candidates:,} x {judges:,}, {amount(pairs * _TICK)} per rank{where}",
        "memory": f"about {amount(memory)} per rank{drawing}, {amount(whole)} in all",
        "time": f"about {compute:.2g} s for distances, {searching:.2g} s for the search",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in rows.items())


def _searched(config: Config, n: int) -> tuple[int, int]:
    """How many objects may become medoids, and how many judge them."""
    if config.method == "clara":
        size = min(n, config.clara.sample_size or 80 + 4 * config.k)
        return size, size
    if config.method == "onebatch":
        from hpckit.cluster.sampling import default_batch

        return n, min(n, config.onebatch.batch or default_batch(n, config.k))
    return n, n
