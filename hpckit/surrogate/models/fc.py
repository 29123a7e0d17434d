"""The fully connected network of Meyer, Schouler, Caulk, Ribes & Raffin, SC 2023."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from hpckit.surrogate.engine import Shapes


def fc(shapes: Shapes, hidden: Sequence[int] = (256, 256)) -> nn.Module:
    """Linear layers with ReLU between them.

    hidden : their widths ::

        fc(Shapes(6, 0, {"u": (32, 32)}))(torch.zeros(64, 6)).shape  # (64, 1024)
    """
    layers: list[nn.Module] = []
    for wide, next_wide in pairwise([shapes.inputs, *hidden]):
        layers += [nn.Linear(wide, next_wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear([shapes.inputs, *hidden][-1], shapes.outputs))
