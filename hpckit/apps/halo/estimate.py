"""`--dry-run` of `hpckit.apps.halo`: how a run would be divided and what it would need; arithmetic
only, no MPI.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from hpckit.comm import partition
from hpckit.errors import ConfigError
from hpckit.log import duration
from hpckit.program.offline import offline
from hpckit.program.report import COPIED, PROCESS, amount, period

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

SAFE = 0.9  # of the largest stable time step
STEPS = 50  # where neither their number nor the duration is given
WIDTH = 1  # ghost cells of all these solvers
_ARRAYS = {"heat": 2, "tsunami": 11, "hillslope": 2}  # that a rank holds
_EXCHANGED = {"heat": 1, "tsunami": 3, "hillslope": 1}  # whose ghosts are filled each step
_WRITTEN = {"heat": 2, "tsunami": 4, "hillslope": 1}  # in each snapshot
_MOVED = {"heat": 2, "tsunami": 16, "hillslope": 2}  # arrays between memory and core in a step
_OF_COPYING = {
    "heat": 0.7,
    "tsunami": 1.4,
    "hillslope": 0.6,
}  # how fast that is, docs/performance.md
_STEP = 3e-5  # seconds of a step without cells: Python, and calls of kernels
_CUBIC = 8  # float64 arrays that refining an input takes for a while
_EXACT = 2  # arrays that comparing with the analytic solution takes for a while
_SLABS = 2  # arrays that writing takes for a while, where blocks are not whole rows of the file
_DRAWING = {
    "heat": (40e6, 100),
    "tsunami": (50e6, 550),
    "hillslope": (40e6, 180),
}  # bytes of rank 0, and per cell
_FILES = 25e6  # bytes of rank 0, which alone needs HDF5
DRAWN = 1_000_000  # cells of a picture at most; larger fields are drawn with gaps
_LEAST_SPAN = 1e-9  # degrees of a cell: a tenth of a millimetre
_MOST_CELLS = 2**60  # whose bytes, and those of a few arrays, still fit into 64 bits


def layout(config: Config, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Global shape and process grid of a run on `size` ranks; raises `ConfigError` where there is
    none.
    """
    ndim = len(config.shape)
    _check_numbers(config, size)
    if config.equation != "heat" and (ndim != 2 or not config.input):
        raise ConfigError(
            f"equation {config.equation!r} needs an input, the file with the elevation, and its "
            "2-D shape"
        )
    if config.per_rank and config.input:
        raise ConfigError(
            "per_rank = true has no input: its shape would have to grow with the ranks"
        )
    how = (size, (config.periodic,) * ndim, ((WIDTH, WIDTH),) * ndim)
    cells = [n * config.refine for n in config.shape]
    if config.process_shape and (
        len(config.process_shape) != ndim or math.prod(config.process_shape) != size
    ):
        best = partition.process_shape(
            [n * size for n in cells] if config.per_rank else cells, *how
        )
        raise ConfigError(
            f"process_shape {config.process_shape} needs {math.prod(config.process_shape)} ranks in"
            f" {len(config.process_shape)} dimensions, but there are {size} in {ndim}: use {best}"
        )
    if config.per_rank:
        processes = tuple(config.process_shape) or partition.process_shape(
            [n * size for n in cells], *how
        )
        return tuple(n * p for n, p in zip(cells, processes, strict=True)), processes
    return tuple(cells), tuple(config.process_shape) or partition.process_shape(cells, *how)


def _check_numbers(config: Config, size: int) -> None:
    """What no run can be like, found before anything is made for it."""
    cells = (
        math.prod(config.shape)
        * config.refine ** len(config.shape)
        * (size if config.per_rank else 1)
    )
    if cells * _WRITTEN[config.equation] * max(config.snapshots, 1) > _MOST_CELLS:
        raise ConfigError(
            "shape "
            f"{_times(config.shape)}{f' refined {config.refine} times' * (config.refine > 1)} and snapshots"
            f" {config.snapshots} make {cells:.3g} cells, and more results than any computer "
            "holds: use smaller ones"
        )
    if len(config.bounds) not in (0, 4):
        raise ConfigError(
            f"bounds {list(config.bounds)} must be [west, east, south, north], the map's edges in "
            "degrees"
        )
    if config.bounds and config.equation != "heat":
        spans = [abs(b - a) for a, b in zip(config.bounds[::2], config.bounds[1::2], strict=False)]
        if min(spans, default=0.0) < _LEAST_SPAN * max(config.shape) * config.refine:
            raise ConfigError(
                f"bounds {list(config.bounds)} must be [west, east, south, north], the map's edges "
                "in degrees, far"
                " enough apart for all cells"
            )


def memory(config: Config, ranks: int) -> np.ndarray:
    """(ranks,) float64, bytes that each rank of a run will have at its peak."""
    shape, processes = layout(config, ranks)
    item, width = np.dtype(config.dtype).itemsize, ((WIDTH, WIDTH),) * len(shape)
    array = np.resize(partition.local_cells(shape, processes, width), ranks) * float(item)
    kept, slabs = (
        _ARRAYS[config.equation],
        _SLABS * (config.snapshots > 0 and processes[0] != ranks),
    )
    reading = (array + _CUBIC * 8 / item * array) * (config.refine > 1)
    checking = _EXACT * array * (config.equation == "heat" and not config.input)
    copying = 2 * np.minimum(array, COPIED / ranks)
    peak = PROCESS + np.maximum(
        reading, kept * array + np.maximum(slabs * array + checking, copying)
    )
    peak[0] += _FILES * (config.snapshots > 0)
    if config.snapshots and config.pictures and len(shape) > 1:
        fixed, per_cell = _DRAWING[config.equation]
        plane = math.prod(shape[-2:])
        drawing = fixed + per_cell * plane / math.ceil(math.sqrt(plane / DRAWN)) ** 2
        peak[0] = max(peak[0], PROCESS + _FILES + kept * array[0] + drawing)
    return peak


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    shape, processes = layout(config, ranks)
    width, item = ((WIDTH, WIDTH),) * len(shape), np.dtype(config.dtype).itemsize
    owned = partition.owned_cells(shape, processes)
    halo = partition.halo_cells(shape, processes, (config.periodic,) * len(shape), width)
    halo = halo * item * _EXCHANGED[config.equation]
    need = memory(config, ranks)
    written = math.prod(shape) * item * _WRITTEN[config.equation] * config.snapshots
    others = f", {amount(need[1:].max())} on the others" if ranks > 1 else ""
    rows = {
        "equation": config.equation,
        "grid": f"{_times(shape)} = {math.prod(shape):,} cells on {ranks} ranks",
        "process grid": f"{_times(processes)}, blocks of {owned.min():,} to {owned.max():,} cells",
        "halo": f"{amount(halo.max())} received per rank and exchange at most, {amount(halo.sum())} by all ranks",
        "memory": f"about {amount(need[0])} on rank 0{others}, {amount(need.sum())} in all",
        "results": f"{config.snapshots} snapshots, {amount(written)}",
        "time": _time(config, ranks, shape, int(owned.max()), int(halo.max())),
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


def _time(config: Config, ranks: int, shape: tuple[int, ...], cells: int, halo: int) -> str:
    """Of a step and of all of them, by what this machine's model says of copying and of messages on
    one node.
    """
    with offline():
        from hpckit.machine.model import Model

        model = Model.newest()
        if model is None:
            return (
                "unknown, for this machine has no model yet: any run of this program on two "
                "ranks measures one"
            )
        item = np.dtype(config.dtype).itemsize
        moved = cells * item * _MOVED[config.equation]
        sweep = moved / _OF_COPYING[config.equation] / model.copying()
        exchange = (
            (model.pack(halo, halo) + model.message(halo) if halo else 0.0)
            if model.has_messages
            else 0.0
        )
    step, cores = _STEP + sweep + exchange, len(os.sched_getaffinity(0))
    steps = _steps(config, shape)
    whole = (
        f"about {_long(steps * step)} for {steps:,} steps"
        if steps
        else "how many depends on the input"
    )
    crowd = (
        f"; {ranks / cores:.3g} times that if all ranks share its {cores}" if ranks > cores else ""
    )
    whose = (
        f"by the model of this machine ({model.machine['mpi']}) with a core for each rank{crowd}"
    )
    return f"about {period(step)} per step, {whole}, {whose}"


def _long(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else period(seconds)


def _steps(config: Config, shape: tuple[int, ...]) -> int:
    """How many there will be; 0 where that depends on the input."""
    if config.steps or config.duration is None:
        return config.steps or STEPS
    if config.dt:
        return max(1, math.ceil(config.duration / config.dt))
    if config.equation == "heat" and not config.heat.implicit:
        return max(
            1, math.ceil(config.duration * 2 * config.heat.kappa * sum(n * n for n in shape) / SAFE)
        )
    return 0


def _times(numbers: tuple[int, ...]) -> str:
    return " x ".join(map(str, numbers))
