"""`--dry-run` of `hpckit.apps.halo`: how a run would be divided and what it would need; arithmetic only, no MPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hpckit.apps._report import PROCESS, amount
from hpckit.comm import partition
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from hpckit.apps.halo import Config

WIDTH = 1  # ghost cells of all these solvers
_ARRAYS = {"heat": 2, "tsunami": 10, "hillslope": 2}  # that a rank holds
_EXCHANGED = {"heat": 1, "tsunami": 3, "hillslope": 1}  # whose ghosts are filled each step
_WRITTEN = {"heat": 2, "tsunami": 4, "hillslope": 1}  # in each snapshot


def layout(config: Config, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Global shape and process grid of a run on `size` ranks; raises `ConfigError` where there is none."""
    ndim = len(config.shape)
    if config.equation != "heat" and (ndim != 2 or not config.input):
        raise ConfigError(
            f"equation {config.equation!r} needs an input, the file with the elevation, and its 2-D shape"
        )
    if config.per_rank and config.input:
        raise ConfigError("per_rank = true has no input: its shape would have to grow with the ranks")
    how = (size, (config.periodic,) * ndim, ((WIDTH, WIDTH),) * ndim)
    cells = [n * config.refine for n in config.shape]
    if config.process_shape and (len(config.process_shape) != ndim or math.prod(config.process_shape) != size):
        best = partition.process_shape([n * size for n in cells] if config.per_rank else cells, *how)
        raise ConfigError(
            f"process_shape {config.process_shape} needs {math.prod(config.process_shape)} ranks in"
            f" {len(config.process_shape)} dimensions, but there are {size} in {ndim}: use {best}"
        )
    if config.per_rank:
        processes = tuple(config.process_shape) or partition.process_shape([n * size for n in cells], *how)
        return tuple(n * p for n, p in zip(cells, processes, strict=True)), processes
    return tuple(cells), tuple(config.process_shape) or partition.process_shape(cells, *how)


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    shape, processes = layout(config, ranks)
    width, item = ((WIDTH, WIDTH),) * len(shape), np.dtype(config.dtype).itemsize
    owned = partition.owned_cells(shape, processes)
    halo = partition.halo_cells(shape, processes, (config.periodic,) * len(shape), width)
    halo = halo * item * _EXCHANGED[config.equation]
    memory = PROCESS + partition.local_cells(shape, processes, width) * item * _ARRAYS[config.equation]
    written = math.prod(shape) * item * _WRITTEN[config.equation] * config.snapshots
    rows = {
        "equation": config.equation,
        "grid": f"{_times(shape)} = {math.prod(shape):,} cells on {ranks} ranks",
        "process grid": f"{_times(processes)}, blocks of {owned.min():,} to {owned.max():,} cells",
        "halo": f"{amount(halo.max())} received per rank and exchange at most, {amount(halo.sum())} by all ranks",
        "memory": f"about {amount(memory.max())} per rank, {amount(memory.sum())} in all",
        "results": f"{config.snapshots} snapshots, {amount(written)}",
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
