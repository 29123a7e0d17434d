"""Sums with the same bits whatever the order of the terms.

`Allreduce(..., reproducible=True)` gives the same bits for any order of the ranks: each element's
terms are cut at multiples of a power of two that only depends on their largest exponent and their
number, and then sums of the parts are exact (Demmel & Nguyen, ARITH 2013). For p ranks the error is
at most half a unit in the last place of the result and 8 p^3 2^-104 of the largest term; for
float32, which is summed in float64, 4 p^2 2^-52 of it.

`reproducible_sum` gives the same bits for any distribution of an array over any number of ranks: it
is the exact sum, rounded once, as `math.fsum` does (a superaccumulator; Neal, arXiv:1505.05571).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.arguments import numbers
from hpckit.collectives.channel import Channel
from hpckit.collectives.engine import Stages, Way, Work
from hpckit.collectives.reduction import Reduction
from hpckit.collectives.shared import Shared
from hpckit.collectives.ways import Bind, bind
from hpckit.errors import ConfigError, together

_KERNELS = "hpckit.collectives.reproducible_kernels"
_WORDS = 68  # of a sum, 32 bits each; then how many infinities, negative ones and NaN there are
_UNIT = 1074  # what is least in a sum: 2**-1074


def reproduced(array: np.ndarray, op: MPI.Op, algorithm: str, compress: str | None) -> Bind:
    """The way that sums such arrays; `ConfigError` where there is none."""
    if algorithm != "auto" or compress is not None:
        chosen = f"compress={compress!r}" if compress is not None else f"algorithm={algorithm!r}"
        raise ConfigError(f"reproducible=True is an algorithm of its own: leave out {chosen}")
    if op != MPI.SUM or array.dtype.char not in "fdFD" + np.typecodes["AllInteger"]:
        operation = "MPI.SUM" if op == MPI.SUM else "another operation"
        raise ConfigError(
            "reproducible=True takes MPI.SUM of integers, float32, float64 or complex numbers of "
            "these, not"
            f" {operation} of {array.dtype}"
        )
    return _bind


def reproducible_sum(comm: MPI.Intracomm, array: np.ndarray) -> float:
    """The exact sum of all elements on all ranks, rounded once (collective).

    array : float32 or float64, any shape; shapes may differ between ranks. As in IEEE 754, NaN, and
        infinities of both
    signs, give NaN. Raises `ConfigError` on all ranks for another dtype.
    """
    with together(comm):
        array = numbers(array)
        if array.dtype.char not in "fd" or not array.dtype.isnative:
            raise ConfigError(
                f"reproducible_sum takes float32 or float64 in native byte order, not {array.dtype}"
            )
    values, words = np.ascontiguousarray(array), np.zeros(_WORDS + 3, np.int64)
    kernel = getattr(native.load(_KERNELS), f"accumulate_{values.dtype.str[1:]}")
    kernel(native.address(words), native.address(values), values.size)
    comm.Allreduce(MPI.IN_PLACE, words)
    return _rounded(words.tolist())


def _rounded(words: list[int]) -> float:
    positive, negative, nan = words[_WORDS:]
    if nan or (positive and negative):
        return float("nan")
    total = sum(word << (32 * place) for place, word in enumerate(words[:_WORDS]))
    try:
        finite = total / (1 << _UNIT)  # Python rounds the quotient of integers correctly
    except OverflowError:
        finite = float("inf") if total > 0 else -float("inf")
    return float("inf") if positive else -float("inf") if negative else finite


def _bind(
    channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None
) -> Way:
    if target.dtype.kind == "c":
        real = np.dtype(f"f{target.itemsize // 2}")
        source, target = source.view(real), target.view(real)
    if target.dtype.kind != "f":  # integers are exact in any order
        return bind(
            "shared" if channel.one_node else "hierarchical", channel, source, target, op, deadline
        )
    return (_OnOneNode if channel.one_node else _between_nodes)(
        channel, source, target, op, deadline
    )


class _OnOneNode(Shared):
    """Whoever computes an element sees the terms of all ranks."""

    def _kernel(self, reduction: Reduction, dtype: np.dtype) -> Any:
        return _kernel("reduce", dtype)


def _between_nodes(
    channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None
) -> Stages:
    """First the largest exponents of all ranks' terms, then the sum of the parts: exact, in any
    order.
    """
    n = target.size
    top = channel.node.zeros((n,), np.uint16)
    parts = channel.node.zeros(
        (2 * n if target.itemsize == 8 else n,)
    )  # float32 need no second part
    high, low = native.address(parts), native.address(parts[-n:])
    x, result, exponents = (native.address(array) for array in (source, target, top))

    def work(kernel: str, *arguments: int) -> Work:
        return Work(
            native.bind(
                _kernel(kernel, target.dtype), *arguments, n, keep=(source, target, top, parts)
            )
        )

    return Stages(
        [
            work("exponents", exponents, x),
            bind("hierarchical", channel, top, top, MPI.MAX, deadline),
            work("split", high, low, exponents, x, channel.size),
            bind("hierarchical", channel, parts, parts, MPI.SUM, deadline),
            work("join", result, high, low, exponents),
        ]
    )


def _kernel(name: str, dtype: np.dtype) -> Any:
    return getattr(native.load(_KERNELS), f"{name}_{dtype.str[1:]}")
