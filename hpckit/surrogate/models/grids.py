"""Flat inputs as channels on the grid of the fields, and back; points of the grid; other grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpckit.errors import ConfigError
from hpckit.surrogate.engine import Shapes


def shape_of(shapes: Shapes, dimensions: tuple[int, ...]) -> tuple[int, ...]:
    """The one shape of all fields.

    Raises `ConfigError` where they differ, or have another number of dimensions than these.
    """
    found = {tuple(shape) for shape in shapes.fields.values()}
    if len(found) > 1:
        raise ConfigError(f"this network needs fields of one shape, not {dict(shapes.fields)}")
    (shape,) = found
    if len(shape) not in dimensions:
        raise ConfigError(f"this network is for fields in {dimensions} dimensions, not {shape}")
    return shape


def columns_of(shapes: Shapes, scalars: Sequence[str] | None) -> list[int]:
    """Where the scalars of these names are in an input; None: all of them."""
    if scalars is None:
        return list(range(shapes.scalars))
    if unknown := [name for name in scalars if name not in shapes.names]:
        raise ConfigError(f"scalars {unknown} must be among {', '.join(shapes.names)}")
    return [shapes.names.index(name) for name in scalars]


def channels(
    x: torch.Tensor, shapes: Shapes, columns: Sequence[int], shape: tuple[int, ...]
) -> torch.Tensor:
    """(B, inputs) as (B, channels, *shape): scalars, the same everywhere, then fields of the past.

    columns : of the scalars
    shape : of the fields in x, which may be those of another grid than the model is trained on
    """
    scalars, past = x[:, columns], x[:, shapes.scalars :]
    scalars = scalars.reshape(*scalars.shape, *(1 for _ in shape))
    past = past.reshape(len(x), shapes.history * len(shapes.fields), *shape)
    return torch.cat([scalars.expand(*scalars.shape[:2], *shape), past], dim=1)


def points(shape: tuple[int, ...]) -> torch.Tensor:
    """(dimensions, *shape): where the points are in the unit box, 0 included and 1 not."""
    axes = [torch.arange(n) / n for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def resampled(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Periodic (B, channels, *grid) on another grid, by its trigonometric interpolation."""
    for dim, n in enumerate(shape, start=2):
        if x.shape[dim] != n:
            x = _resampled_along(x, dim, n)
    return x


def _resampled_along(x: torch.Tensor, dim: int, n: int) -> torch.Tensor:
    old = x.shape[dim]
    kept = min(old, n) // 2 + 1
    waves = torch.fft.rfft(x, dim=dim, norm="forward").narrow(dim, 0, kept)
    if min(old, n) % 2 == 0:  # the highest wave of the coarser grid is one there, two on the finer
        factor = torch.ones(kept)
        factor[-1] = 0.5 if n > old else 2.0
        waves = waves * factor.reshape(-1, *(1 for _ in range(x.dim() - dim - 1)))
    return torch.fft.irfft(waves, n, dim=dim, norm="forward")
