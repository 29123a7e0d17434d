"""Whole numbers for distances and weights: sums of them are exact in float64, in whatever order they are added.

A tick is the power of two for which the largest distance has 24 bits: at most 2**24 ticks, kept exactly in float32.
A distance moves by at most half a tick, 2**-24 of the largest; 2**-23 from points, whose largest distance is bounded
only, and 2**-22 if squared or cosine. Weights become whole numbers whose sum is below 2**29, so no sum of weighted
distances exceeds 2**53.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hpckit import native
from hpckit.errors import ConfigError

DISTANCE_BITS = 24
WEIGHT_BITS = 28  # and one more for what rounding may add
_RANGE = 480  # largest exponent of a distance or a weight: their product must stay within float64, and its unit too


def exponent(largest: float, bits: int, what: str, scale: int = 0) -> int:
    """The e for which `largest` is at most 2**bits times 2**e, and more than half of that; 0 for 0.

    scale : the true value is `largest * 2**scale`; `ConfigError` where that leaves the range of 2**-480 to 2**480.
    """
    mantissa, e = math.frexp(largest)
    e -= mantissa == 0.5
    if largest and abs(e + scale) > _RANGE:
        raise ConfigError(
            f"the {what} is about 2**{e + scale}, allowed is 2**-{_RANGE} to 2**{_RANGE}: use other units"
        )
    return e - bits if largest else 0


def largest(x: np.ndarray) -> float:
    """Largest value of a 2-D float32 or float64 array; `ConfigError` where one is negative, infinite or NaN."""
    x = x.T if x.strides[0] < x.strides[1] else x  # the order does not matter, reading along rows does
    top = _kernel("largest", x)(native.address(x), *x.shape, *_steps(x))
    if not 0 <= top < math.inf:
        o, j = np.argwhere(~((x >= 0) & (x < math.inf)))[0]
        raise ConfigError(f"distances must be finite and not negative, but one is {x[o, j]}: check the data")
    return top


def to_ticks(x: np.ndarray, exponent: int, ticks: np.ndarray) -> None:
    """Round a 2-D float32 or float64 array into `ticks`, float32 with contiguous rows; `ticks` may be `x` itself."""
    into = native.address(ticks), _steps(ticks)[0]
    _kernel("to_ticks", x)(native.address(x), *x.shape, *_steps(x), math.ldexp(1, -exponent), *into)


def weights(given: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights as whole numbers, (n,) float64, and the exponent of their unit.

    Whole numbers with a sum of up to 2**28 are kept; others are rounded to 2**-28 of their sum.
    """
    unit = exponent(math.fsum(given), WEIGHT_BITS, "sum of weights")
    return np.rint(np.ldexp(given, -unit)), unit


def _steps(x: np.ndarray) -> tuple[int, int]:
    return x.strides[0] // x.itemsize, x.strides[1] // x.itemsize


def _kernel(name: str, x: np.ndarray) -> Callable[..., float]:
    return getattr(native.load("hpckit.cluster.kernels.ticks"), f"{name}_f{x.itemsize}")
