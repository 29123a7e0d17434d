"""What plans take: arrays of numbers, operations, deadlines; and on what the ranks must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.arguments import refuse_masked
from hpckit.collectives.reduction import defined, name_of
from hpckit.errors import ConfigError
from hpckit.machine.overlap import identical, overlap, overlaps_itself

_KINDS = "biufc"  # of dtypes that are numbers


def numbers(array: Any) -> np.ndarray:
    """Whatever is like an array, as one of NumPy; `ConfigError` where it is none of numbers."""
    if type(array) is np.ndarray and array.dtype.kind in _KINDS and array.dtype.isnative:
        return array
    refuse_masked("the array", array)
    try:
        found = np.asarray(array)
        check_numbers(found)
    except (TypeError, ValueError):  # a ConfigError is one
        raise ConfigError(
            f"collectives take arrays of numbers in native byte order, got {type(array).__name__}"
        ) from None
    return found


def check_numbers(array: Any) -> None:
    """`ConfigError` unless it is a NumPy array of numbers."""
    refuse_masked("the array", array)
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.kind not in _KINDS
        or not array.dtype.isnative
    ):
        found = f"{type(array).__name__} {getattr(array, 'dtype', '')}".strip()
        raise ConfigError(
            f"collectives take NumPy arrays of numbers in native byte order, got {found}"
            " (of those on a device only allreduce and Allreduce)"
        )


def check_array(array: Any) -> None:
    """`ConfigError` unless it is a contiguous vector of numbers that can be written."""
    check_numbers(array)
    if array.ndim != 1 or not array.flags.c_contiguous or not array.flags.writeable:
        raise ConfigError(
            "the array must be one-dimensional, contiguous and writable, but has shape "
            f"{array.shape}"
        )


def check_result(array: np.ndarray, out: Any) -> None:
    """`ConfigError` unless `out`, the array itself or well apart, can take its reduction."""
    check_numbers(out)
    if not out.flags.writeable:
        raise ConfigError("the result's array is read-only: pass a writable one")
    if (array.shape, array.dtype) != (out.shape, out.dtype):
        raise ConfigError(
            f"out is {out.dtype} {out.shape}, it must be like the array: {array.dtype} "
            f"{array.shape}"
        )
    if overlaps_itself(out):
        raise ConfigError(
            f"elements of the result's array overlap: shape {out.shape} with strides "
            f"{out.strides}; pass a copy"
        )
    if not identical(array, out) and overlap(array, out):
        raise ConfigError(
            "out overlaps the array in memory without being it: pass one of its own, or out=None "
            "to reduce in place"
        )


def check_operation(op: Any, dtype: np.dtype) -> None:
    """`ConfigError` unless `op` is defined for this type."""
    if not isinstance(op, MPI.Op) or op == MPI.OP_NULL:
        found = f"{op!r}, which is null or was freed" if isinstance(op, MPI.Op) else repr(op)
        raise ConfigError(f"op must be an MPI.Op such as MPI.SUM, got {found}")
    known = defined(dtype)
    if op.is_predefined and name_of(op) not in known:
        raise ConfigError(
            f"MPI does not define this operation for {dtype}, only {', '.join(known)}: use another "
            "dtype or operation"
        )


def check_group(group: Any, n: int) -> None:
    """`ConfigError` unless n numbers can be cut into such groups."""
    if not is_whole(group) or group < 1:
        raise ConfigError(f"group={group!r} must be a whole number above 0")
    if n % group:
        raise ConfigError(
            f"{n} numbers cannot be cut into groups of {group}: pass whole groups only"
        )


def is_whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def operation(op: MPI.Op) -> object:
    """What ranks can tell each other of an operation."""
    return (
        op.py2f()
        if op.is_predefined
        else f"the user's, which {'commutes' if op.is_commutative else 'does not'}"
    )
