"""Steps and assignments as they travel: of fixed size, written and read where a queue has them."""

from __future__ import annotations

import numpy as np

_LINE = 64  # bytes that the values, and messages one after the other, are aligned to


def message_dtype(parameters: int, values: int) -> np.dtype:
    """The layout of a message with so many parameters and values of fields.

    `lane` is -1 where a rank has no step to give, only a signal to tell of; `asked` is the exit
    code that a signal asked a solver rank for, else 0. Validation simulations have the numbers -1,
    -2, ….
    """
    heads = [
        ("simulation", "i8", ()),
        ("step", "i4", ()),
        ("lane", "i4", ()),
        ("asked", "i4", ()),
        ("time", "f8", ()),
        ("parameters", "f8", (parameters,)),
    ]
    offsets, end = [], 0
    for _, kind, shape in heads:
        width = np.dtype(kind).itemsize
        start = _aligned(end, width)
        offsets.append(start)
        end = start + width * int(np.prod(shape))
    start = _aligned(end, _LINE)
    return np.dtype(
        {
            "names": [*(name for name, _, _ in heads), "values"],
            "formats": [*((kind, shape) for _, kind, shape in heads), ("f4", (values,))],
            "offsets": [*offsets, start],
            "itemsize": _aligned(start + 4 * values, _LINE),
        }
    )


def assignment_dtype(parameters: int) -> np.dtype:
    """The layout of an assignment of so many parameters; lane -1: all is over, drop everything."""
    heads = [("lane", "i4"), ("first", "i4"), ("simulation", "i8"), ("cycle", "i8")]
    return np.dtype([*heads, ("parameters", "f8", (parameters,))])


def record(place: np.ndarray, dtype: np.dtype) -> np.void:
    """The message or assignment in these bytes, to write or read in place."""
    return place.view(dtype)[0]


def _aligned(offset: int, width: int) -> int:
    return -(-offset // width) * width
