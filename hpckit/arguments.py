"""Checks of users' arguments that more than one room makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hpckit.errors import ConfigError

_T = TypeVar("_T")
_LOST = "is masked, and its mask would be lost: give values to what is masked, as by .filled(0)"


def refuse_masked(what: str, array: Any, why: str = _LOST) -> None:
    """Raise `ConfigError` for a masked array, or a list of some: masks would be lost in silence.

    why : what the error says of `what`, and what to do

    ::

        refuse_masked("field 'h'", h)
    """
    if type(array) is np.ndarray:
        return
    parts = array if isinstance(array, list | tuple) else (array,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise ConfigError(f"{what} {why}")


def per_dimension(
    name: str, value: Any, ndim: int, convert: Callable[[Any], _T], kind: str = "value"
) -> tuple[_T, ...]:
    """`value` once per dimension: as given when it is a sequence, else repeated.

    convert : of each; raises `TypeError` or `ValueError` where it is none of its `kind`

    Raises `ConfigError` for those, and where there are not `ndim` values.

    ::

        per_dimension("width", 1, 3, index)  # (1, 1, 1)
    """
    several = np.iterable(value) and not isinstance(value, str)
    try:
        each = tuple(map(convert, value)) if several else (convert(value),) * ndim
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} {value!r} must be one {kind}, or one per dimension ({ndim})"
        ) from None
    if len(each) != ndim:
        raise ConfigError(
            f"{name} {value!r} must be one {kind}, or one per dimension: it has {len(each)} "
            f"entries, but the grid has {ndim} dimensions"
        )
    return each
