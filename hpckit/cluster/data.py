"""What users pass: points, which all ranks get whole, or distances, which stay where they are."""

from __future__ import annotations

import sys
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.arguments import refuse_masked
from hpckit.cluster.matrix import Matrix, Slices, Whole
from hpckit.cluster.ranks import Ranks
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    import h5py

_BAD_WEIGHTS = "sample_weight must be finite, not negative, and not all zero"
_MANY = 2**28  # objects: no sum of distances may exceed 2**53


def read_data(
    ranks: Ranks,
    data: Any,
    sample_weight: Any,
    *,
    points: bool,
    distributed: bool,
    gaps: bool = False,
) -> tuple[Matrix | np.ndarray, np.ndarray]:
    """A matrix, or points (n, d) float64, and weights (n,) float64 (collective).

    Raises `ConfigError` on all ranks.

    distributed : `data` and `sample_weight` are this rank's slices; gaps : coordinates may be NaN
    """
    rows, weights = np.empty((0, 0)), np.empty(0)
    with ranks.together():
        rows = _table(data, points, distributed)
        weights = checked_weights(sample_weight, len(rows))
    in_file = not isinstance(rows, np.ndarray)
    ranks.same(
        "shape and type of the data",
        (rows.shape[distributed:], rows.dtype.name, in_file, distributed),
    )
    counts = ranks.gather(len(rows)) if distributed else [len(rows)]
    _check_shape((sum(counts), rows.shape[1]), points)
    if distributed:
        weights = ranks.join(weights)
    if not weights.any():
        raise ConfigError(_BAD_WEIGHTS)
    if points:
        return _points(ranks, rows, in_file and not distributed, distributed, gaps), weights
    if distributed and ranks.comm is not None:
        return Slices(rows[:], [0, *accumulate(counts)], ranks.comm), weights
    return Whole(rows), weights


def _points(
    ranks: Ranks, rows: np.ndarray | h5py.Dataset, in_parts: bool, distributed: bool, gaps: bool
) -> np.ndarray:
    """All of them on all ranks; of a file each rank reads its part (collective)."""
    first, stop = ranks.block(len(rows)) if in_parts else (0, len(rows))
    mine = np.empty((0, 0))
    with ranks.together():
        mine = np.asarray(rows[first:stop], np.float64)
        good = ~np.isinf(mine) if gaps else np.isfinite(mine)
        if not good.all():
            o, c = np.argwhere(~good)[0]
            whose = " of this rank" if distributed else ""
            raise ConfigError(
                f"points must be finite, but coordinate {c} of point {first + o}{whose} is "
                f"{mine[o, c]}"
            )
    return ranks.join(mine) if in_parts or distributed else mine


def _table(data: Any, points: bool, distributed: bool) -> np.ndarray | h5py.Dataset:
    h5py = sys.modules.get("h5py")
    table = data if h5py and isinstance(data, h5py.Dataset) else _numbers(data, _name(points))
    _check_type(table.dtype, _name(points))
    if table.ndim != 2 or not distributed:
        _check_shape(table.shape, points)
    return table


def checked_weights(given: Any, n: int) -> np.ndarray:
    """Weights (n,) float64 of objects, 1 where nobody gave any."""
    if given is None:
        return np.ones(n)
    weights = _numbers(given, "sample_weight").astype(np.float64)
    if weights.shape != (n,):
        raise ConfigError(
            f"sample_weight has shape {weights.shape}, it must be ({n},): one weight per object"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ConfigError(_BAD_WEIGHTS)
    return weights


def check_unmasked(value: Any, what: str) -> None:
    """`ConfigError` for a masked array, or a list of some: what is under a mask would count."""
    why = "must not be a masked array: fill it, or leave the masked rows out"
    refuse_masked(what, value, why)


def _numbers(value: Any, what: str) -> np.ndarray:
    check_unmasked(value, what)
    if hasattr(value, "toarray"):  # of SciPy
        raise ConfigError(
            f"{what} must be a dense array of real numbers, not a sparse {type(value).__name__}: "
            "pass .toarray()"
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ConfigError(f"{what} must be an array of numbers: {error}") from error
    _check_type(array.dtype, what)
    return array


def _check_type(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "biuf":
        raise ConfigError(f"{what} must be a dense array of real numbers, not of {dtype}")


def _check_shape(shape: tuple[int, ...], points: bool) -> None:
    if points and (len(shape) != 2 or 0 in shape):
        raise ConfigError(
            f"the points have shape {shape}, they must be (n, d) with n and d above 0"
        )
    if not points and (len(shape) != 2 or shape[0] != shape[1] or 0 in shape):
        raise ConfigError(
            f"the distance matrix has shape {shape}, it must be square and not empty;"
            f" for points pass metric='euclidean' or another"
        )
    if shape[0] > _MANY:
        raise ConfigError(
            f"{shape[0]} objects are too many: sums of distances are exact for up to {_MANY}"
        )


def _name(points: bool) -> str:
    return "the points" if points else "the distance matrix"
