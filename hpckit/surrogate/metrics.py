"""How far a prediction is from the truth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mpi4py import MPI


class Summary(NamedTuple):
    """Of the errors of many samples; NaN of none."""

    mean: float
    p95: float
    p99: float


def relative_l2(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """|predicted - true| / |true| of each sample, (B,) float64; of a true zero, |predicted|.

    ::

        relative_l2(np.array([[1.0], [3.0]]), np.array([[1.5], [3.3]]))  # [0.5, 0.1]

    true, predicted : (B, ...) in physical units
    """
    rows = len(true)
    true = np.reshape(true, (rows, -1)).astype(np.float64)
    size = np.linalg.norm(true, axis=1)
    apart = np.linalg.norm(np.reshape(predicted, (rows, -1)) - true, axis=1)
    return apart / np.where(size > 0, size, 1.0)


def summary(errors: np.ndarray, comm: MPI.Intracomm | None = None) -> Summary:
    """Mean and percentiles of (B,) errors, of all ranks' where there are several (collective).

    ::

        summary(relative_l2(true, predicted)).mean
    """
    if comm is not None:
        errors = np.concatenate(comm.allgather(errors))
    if not len(errors):
        return Summary(math.nan, math.nan, math.nan)
    p95, p99 = np.percentile(errors, [95, 99])
    return Summary(math.fsum(errors) / len(errors), float(p95), float(p99))
