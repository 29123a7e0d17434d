"""Distances and weights as numbers whose sums are exact, in whatever order they are added.

A tick is the power of two for which the largest distance has 24 bits: at most 2**24 ticks, kept
exactly in float32. A distance moves by at most half a tick, 2**-24 of the largest; 2**-23 from
points, whose largest distance is bounded only, and 2**-22 if squared or cosine. Weights become
whole numbers whose sum is below 2**29, so no sum of weighted distances exceeds 2**53, and float64
holds them all.

Beside one huge distance all others would be few ticks. `coarse` looks out for that in some rows;
then distances are *wide*: any float32, moved by at most 2**-25 of themselves, and sums are those of
`kernels.wide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hpckit import native
from hpckit.errors import ConfigError

DISTANCE_BITS, WIDE_BITS = 24, 127
WEIGHT_BITS = 28  # and one more for what rounding may add
FAR, WIDE_FAR = 2.0**24, float(np.finfo(np.float32).max)  # no distance is larger
LIMBS = 5  # of 64 bits, in a wide sum
_SAMPLE, _MOST = 64, 1024  # rows that are looked at; the second where few objects are no medoids
BINS = 40  # of a histogram: a factor of two each, and the last for all below
# Largest exponent of a distance or a weight: their product and its unit must be within float64.
_RANGE = 480
_WHOLE = 1.5 * 2**52  # adding and subtracting it rounds to a whole number
_NEAR, _GAP, _FEW = 12, 8, 6  # powers of two; see `coarse`


def exponent(largest: float, bits: int, what: str, scale: int = 0) -> int:
    """The e for which `largest` is at most 2**bits times 2**e, and more than half of that; 0 for 0.

    scale : the true value is `largest * 2**scale`; `ConfigError` where that leaves the range of
        2**-480 to 2**480.
    """
    mantissa, e = math.frexp(largest)
    e -= mantissa == 0.5
    if largest and abs(e + scale) > _RANGE:
        raise ConfigError(
            f"the {what} is about 2**{e + scale}, allowed is 2**-{_RANGE} to 2**{_RANGE}: use "
            "other units"
        )
    return e - bits if largest else 0


def largest(x: np.ndarray) -> float:
    """Largest of a 2-D float32 or float64 array; `ConfigError` where one is no distance."""
    x = (
        x.T if x.strides[0] < x.strides[1] else x
    )  # the order does not matter, reading along rows does
    top = _kernel("largest", x)(native.address(x), *x.shape, *_steps(x))
    if not 0 <= top < math.inf:
        o, j = np.argwhere(~((x >= 0) & (x < math.inf)))[0]
        raise ConfigError(
            f"distances must be finite and not negative, but one is {x[o, j]}: check the data"
        )
    return top


def to_ticks(x: np.ndarray, exponent: int, ticks: np.ndarray, *, wide: bool = False) -> None:
    """Round 2-D float32 or float64 into `ticks`, float32 with contiguous rows; it may be `x`."""
    into = rounding(wide), native.address(ticks), _steps(ticks)[0]
    _kernel("to_ticks", x)(native.address(x), *x.shape, *_steps(x), math.ldexp(1, -exponent), *into)


def rounding(wide: bool) -> float:
    """What kernels add and subtract, so that ticks are whole numbers if they are not `wide`."""
    return 0.0 if wide else _WHOLE


def histogram(x: np.ndarray, top: float, counts: np.ndarray) -> None:
    """Count each row's positive values by size, from `top` down: (rows, BINS) int64."""
    kernel = _kernel("histogram", x)
    kernel(
        native.address(x), *x.shape, *_steps(x), math.frexp(top)[1], BINS, native.address(counts)
    )


def sample(rows: int, n: int, k: int) -> np.ndarray:
    """Which of so many rows, n long, to look at: ascending, the same on all ranks."""
    few = min(rows, _SAMPLE if 2 * k < n else _MOST)
    return np.sort(np.random.default_rng(0).choice(rows, few, replace=False))


def coarse(counts: np.ndarray, n: int, k: int) -> bool:
    """Whether ticks are too coarse for k medoids: by histograms, (rows, BINS) int64, of rows of n.

    They are, if of some objects (1 of 16) as many others as a quarter of an average cluster are at
    less than 2**12 ticks; if many objects (1 of 4) have others much nearer than all the rest, by
    2**8; or if as many as are no medoids may be served from less than 2**6 ticks.
    """
    rows, below = (
        len(counts),
        counts[:, ::-1].cumsum(axis=1)[:, ::-1],
    )  # how many are in this bin or further down
    near = below[:, DISTANCE_BITS - _NEAR] >= max(1, n // (4 * k))
    empty = np.lib.stride_tricks.sliding_window_view(counts == 0, _GAP, axis=1).all(axis=2)
    gap = (empty[:, :-1] & (below[:, :1] > below[:, :-_GAP]) & (below[:, _GAP:] > 0)).any(axis=1)
    served = np.count_nonzero(below[:, DISTANCE_BITS - _FEW] > 0)
    return bool(
        np.count_nonzero(near) >= max(2, rows / 16)
        or np.count_nonzero(gap) >= max(2, rows / 4)
        or served >= max(1, (n - k) / 2 * rows / n)
    )


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
