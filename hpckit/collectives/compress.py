"""Compression of an allreduce by its name: what `Allreduce(..., compress=...)` takes.

    "fp16", "bf16", "int8"    fewer bits for each number; see `hpckit.collectives.quantised`
    "topk:0.01"               the largest hundredth of the numbers; `hpckit.collectives.topk`
    "powersgd:4"              the matrix's best approximation of rank 4; `hpckit.collectives.powersgd`

It pays where links are slow and the array is large, so that its bytes take several times the links'
latency. On one node the bytes are moved faster than they are compressed.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from hpckit.collectives import quantised, topk
from hpckit.collectives.powersgd import PowerSGD
from hpckit.collectives.quantised import Quantised
from hpckit.collectives.topk import TopK
from hpckit.collectives.ways import Bind
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError


def compressed(how: str, array: np.ndarray, op: MPI.Op, algorithm: str, chunks: int) -> Bind:
    """The way that sums such arrays; `ConfigError` where there is none."""
    name, parameter = _parsed(how)
    if algorithm != "auto":
        raise ConfigError(
            f"compress={how!r} is an algorithm of its own: leave out algorithm={algorithm!r}"
        )
    if op != MPI.SUM or array.dtype not in (np.float32, np.float64):
        operation = "MPI.SUM" if op == MPI.SUM else "another operation"
        raise ConfigError(
            f"compress={how!r} takes MPI.SUM of float32 or float64, not {operation} of "
            f"{array.dtype}"
        )
    if name == "topk":
        if array.size > topk.LIMIT * chunks:
            raise ConfigError(
                f"compress={how!r} takes {topk.LIMIT} elements at a time, not {array.size}: use "
                "chunks"
            )
        return partial(TopK, fraction=parameter)
    if name != "powersgd":
        return partial(Quantised, form=name)
    if array.ndim < 2 or chunks > 1 or not array.flags.forc:
        raise ConfigError(
            f"compress={how!r} takes contiguous arrays of two or more dimensions, in one chunk; "
            "this one has shape"
            f" {array.shape} and {chunks} chunks: use 'int8'"
        )
    return partial(PowerSGD, columns=_columns(array), rank=int(parameter))


def sent_bytes(how: str | None, array: np.ndarray, ranks: int) -> int:
    """Bytes that a rank sends in an allreduce of such an array among so many ranks; None: without
    compression.
    """
    n, itemsize = array.size, array.itemsize
    if how is None:
        return 2 * (n - n // ranks) * itemsize
    name, parameter = _parsed(how)
    if name == "topk":
        return (ranks - 1) * topk.message_bytes(parameter, n, itemsize)
    if name == "powersgd":
        rows, columns = n // max(_columns(array), 1), _columns(array)
        n = min(int(parameter), rows, columns) * (rows + columns)
        return 2 * (n - n // ranks) * itemsize
    edges = starts(n, ranks)
    slices = [
        quantised.message_bytes(name, stop - start, itemsize) for start, stop in pairwise(edges)
    ]
    return sum(slices[1:]) + (ranks - 1) * slices[0]


def _columns(array: np.ndarray) -> int:
    """Length of a row of the matrix, as it lies in memory."""
    return (array.shape or (1,))[-1 if array.flags.c_contiguous else 0]


def _parsed(how: str) -> tuple[str, float]:
    """Name and parameter."""
    name, _, text = how.partition(":") if isinstance(how, str) else (None, "", "")
    if name in ("fp16", "bf16", "int8") and how == name:
        return name, 0
    try:
        parameter = float(text)
    except ValueError:
        parameter = 0.0
    if name == "topk" and 0 < parameter <= 1:
        return name, parameter
    if name == "powersgd" and parameter >= 1 and parameter.is_integer():
        return name, parameter
    raise ConfigError(
        f"compress={how!r} must be 'fp16', 'bf16', 'int8', 'topk:FRACTION' with a fraction above 0 "
        "and up to 1, or"
        " 'powersgd:RANK' with a rank of 1 or more"
    )
