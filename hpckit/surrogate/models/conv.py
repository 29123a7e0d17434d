"""A residual convolutional network for the next step of fields: views `window:n` and `pairs:D`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpckit.errors import ConfigError
from hpckit.surrogate.engine import Shapes
from hpckit.surrogate.models.grids import channels, columns_of, points, shape_of


def conv(
    shapes: Shapes,
    width: int = 32,
    layers: int = 6,
    kernel: int = 5,
    periodic: bool = True,
    noise: float = 0.0,
    scalars: Sequence[str] | None = None,
) -> nn.Module:
    """What a step adds to the last fields, by convolutions with ever wider gaps: 1, 2, 4, 1, 2, ...

    width, layers, kernel : channels, convolutions, and points that each one sees per dimension
    periodic : whether opposite borders are neighbours, and all points alike; else values at the
        border go on beyond it, and points are told where they are
    noise : deviation of what is added to the past while training, in normalised units, so that
        the network learns to mend errors of its own (Sanchez-Gonzalez et al., ICML 2020)
    scalars : parameters that count, and "time"; None: all ::

        conv(Shapes(4, 2, {"u": (100,)}))(torch.zeros(8, 204)).shape  # (8, 100)
    """
    return Conv(shapes, width, layers, kernel, periodic, noise, scalars)


class Conv(nn.Module):
    """Each layer adds to the one before it, the whole to the last fields of the past."""

    def __init__(
        self,
        shapes: Shapes,
        width: int,
        layers: int,
        kernel: int,
        periodic: bool,
        noise: float,
        scalars: Sequence[str] | None,
    ) -> None:
        super().__init__()
        if not shapes.history:
            raise ConfigError(
                "conv needs fields of the past: view 'window:n', 'pairs:D', 'initial'"
            )
        self.shapes = shapes
        self.shape = shape_of(shapes, (1, 2))
        self.noise = noise
        fields = len(shapes.fields)
        at = points(self.shape)[: 0 if periodic else None]
        self.columns = columns_of(shapes, scalars)
        given = len(self.columns) + shapes.history * fields + len(at)
        kind = (nn.Conv1d, nn.Conv2d)[len(self.shape) - 1]
        how = "circular" if periodic else "replicate"
        self.register_buffer("points", at, persistent=False)
        self.first = kind(given, width, 1)
        self.middle = nn.ModuleList(
            kind(width, width, kernel, padding=(kernel // 2) * gap, dilation=gap, padding_mode=how)
            for gap in (1 << layer % 3 for layer in range(layers))
        )
        self.last = kind(width, fields, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs) to (B, outputs)."""
        if self.training and self.noise:
            past = x[:, self.shapes.scalars :]
            noisy = past + self.noise * torch.randn_like(past)
            x = torch.cat([x[:, : self.shapes.scalars], noisy], dim=1)
        y = channels(x, self.shapes, self.columns, self.shape)
        y = self.first(torch.cat([y, self.points.expand(len(x), *self.points.shape)], dim=1))
        for layer in self.middle:
            y = y + nn.functional.gelu(layer(y))
        return x[:, -self.shapes.outputs :] + self.last(y).flatten(1)
