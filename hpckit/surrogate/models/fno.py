"""The Fourier neural operator (Li et al., ICLR 2021) in one, two or three dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from hpckit.surrogate.engine import Shapes
from hpckit.surrogate.models.grids import channels, columns_of, points, resampled, shape_of


def fno(
    shapes: Shapes,
    width: int = 32,
    modes: int = 12,
    layers: int = 4,
    where: bool = True,
    scalars: Sequence[str] | None = None,
) -> nn.Module:
    """For periodic fields: `initial` and other views with fields, also the parameters alone.

    width : channels of each layer
    modes : lowest waves of each dimension that a layer mixes; the grid may have fewer
    layers : of them
    where : whether points are told where they are; without, shifted fields give shifted results
    scalars : parameters that count, and "time"; the others say no more than the fields of the past
        do. None: all ::

        fno(Shapes(2, 1, {"u": (16,)}), width=8)(torch.zeros(4, 18)).shape  # (4, 16)
    """
    return FNO(shapes, width, modes, layers, where, scalars)


class FNO(nn.Module):
    """Layers on the grid of training. Fields of other grids are interpolated to it and back.

    Between layers channels come last, (B, *grid, channels).
    """

    def __init__(
        self,
        shapes: Shapes,
        width: int,
        modes: int,
        layers: int,
        where: bool,
        scalars: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.shapes = shapes
        self.shape = shape_of(shapes, (1, 2, 3))
        fields = len(shapes.fields)
        at = points(self.shape)[: None if where else 0]
        self.columns = columns_of(shapes, scalars)
        given = len(self.columns) + shapes.history * fields + len(at)
        self.register_buffer("points", at, persistent=False)
        self.lift = nn.Linear(given, width)
        self.waves = nn.ModuleList(Waves(width, modes, self.shape) for _ in range(layers))
        self.local = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.project = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, fields)
        )

    def forward(self, x: torch.Tensor, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """(B, inputs) to (B, outputs), both of fields of this shape; None: the grid of training."""
        shape = shape or self.shape
        y = resampled(channels(x, self.shapes, self.columns, shape), self.shape)
        y = torch.cat([y, self.points.expand(len(x), *self.points.shape)], dim=1)
        y = self.lift(y.movedim(1, -1))
        last = len(self.waves) - 1
        for layer, (waves, local) in enumerate(zip(self.waves, self.local, strict=True)):
            y = waves(y) + local(y)
            y = y if layer == last else nn.functional.gelu(y)
        return resampled(self.project(y).movedim(-1, 1).float(), shape).flatten(1)


class Waves(nn.Module):
    """A linear map of the channels for each of the lowest waves; real weights (..., 2)."""

    def __init__(self, width: int, modes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        # Of all but the last dimension waves go both ways.
        kept = [min(modes, n // 2) for n in shape[:-1]] + [min(modes, shape[-1] // 2 + 1)]
        both = [(slice(0, n), slice(-n, None)) for n in kept[:-1]]
        self.corners = [(*each, slice(0, kept[-1])) for each in itertools.product(*both)]
        size = (len(self.corners), *kept, width, width, 2)
        self.weight = nn.Parameter(torch.rand(size) / width**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dims = tuple(range(1, x.dim() - 1))
        with torch.autocast(x.device.type, enabled=False):  # no transforms of bfloat16
            waves = torch.fft.rfftn(x.float(), dim=dims, norm="forward")
            result = torch.zeros_like(waves)
            for corner, weight in zip(self.corners, self.weight, strict=True):
                at = (slice(None), *corner)
                result[at] = _mapped(waves[at], weight)
            return torch.fft.irfftn(result, self.shape, dim=dims, norm="forward")


def _mapped(waves: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Complex (B, *modes, i) by (*modes, i, o, 2), which is complex, too: (B, *modes, o).

    One product of real matrices for each wave: complex ones take torch several times as long.
    """
    modes, (i, o, _) = waves.shape[1:-1], weight.shape[-3:]
    real, imaginary = weight.reshape(-1, i, o, 2).unbind(-1)
    matrices = torch.cat(
        [torch.cat([real, imaginary], dim=2), torch.cat([-imaginary, real], dim=2)], dim=1
    )
    rows = torch.view_as_real(waves).reshape(len(waves), -1, i, 2)
    rows = rows.permute(1, 0, 3, 2).reshape(-1, len(waves), 2 * i)
    result = (rows @ matrices).reshape(-1, len(waves), 2, o).permute(1, 0, 3, 2).contiguous()
    return torch.view_as_complex(result).reshape(len(waves), *modes, o)
