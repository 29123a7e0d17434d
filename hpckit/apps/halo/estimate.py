"""`--dry-run` of `hpckit.apps.halo`: how a run would be divided and what it would need; no MPI."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from hpckit.apps.halo.layout import ghosts, layout, times
from hpckit.apps.halo.schedule import SAFE, STEPS
from hpckit.comm import partition
from hpckit.pde import EQUATIONS
from hpckit.pde.planes import stride
from hpckit.program.offline import offline
from hpckit.program.report import COPIED, PROCESS
from hpckit.units import amount, duration, period

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config
    from hpckit.pde import Cost

_STEP = 3e-5  # seconds of a step without cells: Python, and calls of kernels
_CUBIC = 8  # float64 arrays that refining an input takes for a while
_SLABS = 2  # arrays that writing takes for a while, where blocks are not whole rows of the file
_FILES = 25e6  # bytes of rank 0, which alone needs HDF5


def memory(config: Config, ranks: int) -> np.ndarray:
    """(ranks,) float64, bytes that each rank of a run will have at its peak."""
    shape, processes = layout(config, ranks)
    item, width = np.dtype(config.dtype).itemsize, ghosts(config)
    array = np.resize(partition.local_cells(shape, processes, width), ranks) * float(item)
    cost = _cost(config)
    kept = cost.kept * array
    slabs = _SLABS * array * (config.snapshots > 0 and processes[0] != ranks)
    reading = (array + _CUBIC * 8 / item * array) * (config.refine > 1)
    checking = cost.checking * array
    copying = 2 * np.minimum(array, COPIED / ranks)
    peak = PROCESS + np.maximum(reading, kept + np.maximum(slabs + checking, copying))
    peak[0] += _FILES * (config.snapshots > 0)
    drawn = len(shape) >= EQUATIONS[config.equation].drawn_from
    if config.snapshots and config.pictures and drawn:
        fixed, per_cell = cost.drawing
        plane = shape[-2:]
        drawing = fixed + per_cell * math.prod(plane) / stride(shape) ** len(plane)
        peak[0] = max(peak[0], PROCESS + _FILES + kept[0] + drawing)
    return peak


def _cost(config: Config) -> Cost:
    return EQUATIONS[config.equation].cost(config.options, bool(config.input))


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    shape, processes = layout(config, ranks)
    width, item = ghosts(config), np.dtype(config.dtype).itemsize
    owned = partition.owned_cells(shape, processes)
    halo = partition.halo_cells(shape, processes, (config.periodic,) * len(shape), width)
    halo = halo * item * _cost(config).exchanged
    need = memory(config, ranks)
    written = math.prod(shape) * item * _cost(config).written * config.snapshots
    others = f", {amount(need[1:].max())} on the others" if ranks > 1 else ""
    rows = {
        "equation": config.equation,
        "grid": f"{times(shape)} = {math.prod(shape):,} cells on {ranks} ranks",
        "process grid": f"{times(processes)}, blocks of {owned.min():,} to {owned.max():,} cells",
        "halo": f"{amount(halo.max())} received per rank and exchange at most,"
        f" {amount(halo.sum())} by all ranks",
        "memory": f"about {amount(need[0])} on rank 0{others}, {amount(need.sum())} in all",
        "results": f"{config.snapshots} snapshots, {amount(written)}",
        "time": _time(config, ranks, shape, int(owned.max()), int(halo.max())),
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


def _time(config: Config, ranks: int, shape: tuple[int, ...], cells: int, halo: int) -> str:
    """Of a step and of all, by this machine's model of copying and of messages on one node."""
    if config.device != "cpu":
        return "unknown: the model of a machine is that of its CPUs"
    with offline():
        from hpckit.machine.model import Model

        model = Model.newest()
        if model is None:
            return (
                "unknown, for this machine has no model yet: any run of this program on two "
                "ranks measures one"
            )
        item = np.dtype(config.dtype).itemsize
        cost = _cost(config)
        sweep = cells * item * cost.moved / cost.of_copying / model.copying()
        exchange = 0.0
        if halo and model.has_messages:
            exchange = model.pack(halo, halo) + model.message(halo)
    step = _STEP + sweep + exchange
    steps = _steps(config, shape)
    whole = "how many depends on the input"
    if steps:
        whole = f"about {_long(steps * step)} for {steps:,} steps"
    text = (
        f"about {period(step)} per step, {whole}, by the model of this machine"
        f" ({model.machine['mpi']}) with a core for each rank"
    )
    cores = len(os.sched_getaffinity(0))
    if ranks > cores:
        text += f"; {ranks / cores:.3g} times that if all ranks share its {cores}"
    return text


def _long(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else period(seconds)


def _steps(config: Config, shape: tuple[int, ...]) -> int:
    """How many there will be; 0 where that depends on the input."""
    if config.steps or config.duration is None:
        return config.steps or STEPS
    if config.dt:
        return max(1, math.ceil(config.duration / config.dt))
    dt_max = EQUATIONS[config.equation].dt_max(config.options, shape)
    return max(1, math.ceil(config.duration / (SAFE * dt_max))) if dt_max else 0
