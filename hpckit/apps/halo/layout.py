"""How a run divides its grid among the ranks, and what no run can be like; arithmetic, no MPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpckit.comm import partition
from hpckit.errors import ConfigError
from hpckit.pde import EQUATIONS

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

_LEAST_SPAN = 1e-9  # degrees of a cell: a tenth of a millimetre
_MOST_CELLS = 2**60  # whose bytes, and those of a few arrays, still fit into 64 bits


def layout(config: Config, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Global shape and process grid of a run on `size` ranks; `ConfigError` where there is none."""
    ndim = len(config.shape)
    _check_numbers(config, size)
    _check_grid(config, ndim)
    if EQUATIONS[config.equation].on_map and (ndim != 2 or not config.input):
        raise ConfigError(
            f"equation {config.equation!r} needs an input, the file with the elevation, and its "
            "2-D shape"
        )
    if config.per_rank and config.input:
        raise ConfigError(
            "per_rank = true has no input: its shape would have to grow with the ranks"
        )
    how = (size, (config.periodic,) * ndim, ghosts(config))
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


def _check_grid(config: Config, ndim: int) -> None:
    """What the equation cannot do without, or not do with."""
    equation = EQUATIONS[config.equation]
    needed = equation.periodic_in
    if needed and (ndim != needed or not config.periodic):
        raise ConfigError(
            f"equation {config.equation!r} needs a periodic grid of {needed} "
            f"dimension{'s' * (needed > 1)}, but shape is {times(config.shape)} and periodic = "
            f"{str(config.periodic).lower()}"
        )
    if config.device != "cpu" and not equation.on_devices(config.options):
        raise ConfigError(
            f"equation {config.equation!r} with these options has no kernels for devices, those of "
            "explicit heat and of tsunami have: leave out --device"
        )
    if config.input and not equation.takes_input:
        raise ConfigError(
            f"equation {config.equation!r} takes no input, its section says how it starts: leave "
            f"out {config.input}"
        )


def _check_numbers(config: Config, size: int) -> None:
    """What no run can be like, found before anything is made for it."""
    equation = EQUATIONS[config.equation]
    written = equation.cost(config.options, bool(config.input)).written
    cells = math.prod(config.shape) * config.refine ** len(config.shape)
    cells *= size if config.per_rank else 1
    if cells * written * max(config.snapshots, 1) > _MOST_CELLS:
        refined = f" refined {config.refine} times" if config.refine > 1 else ""
        raise ConfigError(
            f"shape {times(config.shape)}{refined} and snapshots {config.snapshots} make"
            f" {cells:.3g} cells, and more results than any computer holds: use smaller ones"
        )
    if len(config.bounds) not in (0, 4):
        raise ConfigError(
            f"bounds {list(config.bounds)} must be [west, east, south, north], the map's edges in "
            "degrees"
        )
    if config.bounds and equation.on_map:
        spans = [abs(b - a) for a, b in zip(config.bounds[::2], config.bounds[1::2], strict=False)]
        if min(spans, default=0.0) < _LEAST_SPAN * max(config.shape) * config.refine:
            raise ConfigError(
                f"bounds {list(config.bounds)} must be [west, east, south, north], the map's edges "
                "in degrees, far enough apart for all cells"
            )


def ghosts(config: Config) -> tuple[tuple[int, int], ...]:
    """Their width, (low, high) per dimension."""
    width = EQUATIONS[config.equation].width
    return ((width, width),) * len(config.shape)


def times(numbers: tuple[int, ...]) -> str:
    """`128 x 128` for (128, 128)."""
    return " x ".join(map(str, numbers))
