"""DeepONet (Lu, Jin, Pang, Zhang & Karniadakis, Nature Machine Intelligence 2021)."""

from __future__ import annotations

import torch
from torch import nn

from hpckit.surrogate.engine import Shapes
from hpckit.surrogate.models.grids import points


def deeponet(shapes: Shapes, width: int = 128, depth: int = 3, basis: int = 64) -> nn.Module:
    """Fields as sums of functions of the point, with coefficients by a network of the input.

    width, depth : of the layers of both networks, and how many
    basis : functions for each field ::

        deeponet(Shapes(6, 0, {"u": (32, 32)}))(torch.zeros(64, 6)).shape  # (64, 1024)

    Time is among the inputs of the coefficients (the branch), so that the functions (the trunk) are
    computed once for all samples of a batch, each of which is a whole field.
    """
    return DeepONet(shapes, width, depth, basis)


class DeepONet(nn.Module):
    """A branch of the input for all fields together, a trunk of the points for each."""

    def __init__(self, shapes: Shapes, width: int, depth: int, basis: int) -> None:
        super().__init__()
        self.basis = basis
        fields = shapes.fields.values()
        self.branch = _network(shapes.inputs, width, depth, basis * len(fields))
        self.trunks = nn.ModuleList(_network(len(shape), width, depth, basis) for shape in fields)
        self.means = nn.Parameter(torch.zeros(len(fields)))
        for index, shape in enumerate(fields):
            at = points(tuple(shape)).flatten(1).T
            self.register_buffer(f"points{index}", at, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs) to (B, outputs)."""
        fields = []
        for index, coefficients in enumerate(self.branch(x).split(self.basis, dim=1)):
            functions = self.trunks[index](self.get_buffer(f"points{index}"))
            scaled = coefficients @ functions.T / self.basis**0.5
            fields.append(scaled + self.means[index])
        return torch.cat(fields, dim=1)


def _network(given: int, width: int, depth: int, wanted: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(given, width), nn.GELU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, wanted))
