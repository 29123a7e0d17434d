"""Memory written while it is read, or written twice: what no exchange or reduction may be asked."""

from __future__ import annotations

import numpy as np

from hpckit import native

_WORK = 10**6  # candidates, some milliseconds: views that slices can make take a few


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether these are the same elements in the same places, or no elements at all."""
    alike = (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    return alike and (native.address(a) == native.address(b) or not a.size)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether they have a byte in common; True where that would take too long to find out."""
    try:
        return np.shares_memory(a, b, max_work=_WORK)  # pyright: ignore[reportArgumentType]  (its stub is too narrow)
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(array: np.ndarray) -> bool:
    """Whether two elements may share a byte, as in broadcast views; never in plain slices."""
    span = array.itemsize if array.size else 0
    for stride, n in sorted(
        (abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1
    ):
        if stride < span:
            return True
        span += stride * (n - 1)
    return False
