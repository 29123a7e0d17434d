"""Robust losses: how much a large residual counts.

The cost of an adjustment is 1/2 sum rho(|r|^2), r a residual in pixels; rho as in Ceres. Residuals
and Jacobians are scaled by sqrt(rho'), as in iteratively reweighted least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from hpckit.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """A loss that grows slower than squares beyond `scale` pixels."""

    scale: float
    number: ClassVar[int]  # of the kernels

    def __post_init__(self) -> None:
        scale = self.scale
        if not isinstance(scale, int | float) or not (math.isfinite(scale) and scale > 0):
            raise ConfigError(
                f"{type(self).__name__}({scale!r}): the scale must be a positive number of pixels"
            )


@dataclass(frozen=True)
class Huber(Loss):
    """Squares up to `scale`, linear beyond: rho(s) = 2 a sqrt(s) - a^2. ::

    bundle_adjust(reconstruction, loss=Huber(1.0))
    """

    number = 1


@dataclass(frozen=True)
class Cauchy(Loss):
    """rho(s) = a^2 log(1 + s / a^2). ::

    bundle_adjust(reconstruction, loss=Cauchy(2.0))
    """

    number = 2


@dataclass(frozen=True)
class SoftL1(Loss):
    """rho(s) = 2 a^2 (sqrt(1 + s / a^2) - 1). ::

    bundle_adjust(reconstruction, loss=SoftL1(1.0))
    """

    number = 3


def robust(loss: Loss | None) -> tuple[int, float]:
    """What kernels take of it: its number and scale; 0 for plain squares."""
    if loss is not None and not isinstance(loss, Loss):
        raise ConfigError(
            f"loss {loss!r} is none: give Huber(a), Cauchy(a), SoftL1(a), or None for squares"
        )
    return (0, 1.0) if loss is None else (loss.number, float(loss.scale))
