"""Sums with the same bits whatever the order of the terms.

`Reproducible()` gives the same bits for any order of the ranks: each element's terms are cut at
multiples of a power of two that only depends on their largest exponent and their number, and then
sums of the parts are exact (Demmel & Nguyen, ARITH 2013). For p ranks the error is at most half a
unit in the last place of the result and 8 p^3 2^-104 of the largest term; for float32, which is
summed in float64, 4 p^2 2^-52 of it.

`reproducible_sum` gives the same bits for any distribution of an array over any number of ranks: it
is the exact sum, rounded once, as `math.fsum` does (a superaccumulator; Neal, arXiv:1505.05571).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.algorithms.hierarchical import Hierarchical
from hpckit.collectives.algorithms.shared import Shared, SharedReduction
from hpckit.collectives.arguments import numbers
from hpckit.collectives.persistent import Operands, Persistent, Stages, Work, alone
from hpckit.errors import ConfigError, together

_KERNELS = "hpckit.collectives.kernels.reproducible"
_WORDS = 68  # of a sum, 32 bits each; then how many infinities, negative ones and NaN there are
_UNIT = 1074  # what is least in a sum: 2**-1074


class Reproducible(Algorithm):
    """Sums that have the same bits for any order of the ranks. ::

    plan = Allreduce(comm, terms, algorithm=Reproducible())
    """

    name = "reproducible"
    acts_alone = True

    def check(self, array: np.ndarray, op: MPI.Op, chunks: int) -> None:
        if op != MPI.SUM or array.dtype.char not in "fdFD" + np.typecodes["AllInteger"]:
            operation = "MPI.SUM" if op == MPI.SUM else "another operation"
            raise ConfigError(
                "algorithm 'reproducible' takes MPI.SUM of integers, float32, float64 or complex "
                f"numbers of these, not {operation} of {array.dtype}"
            )

    def bind(self, operands: Operands) -> Persistent:
        source, target = operands.source, operands.target
        if target.dtype.kind == "c":
            real = np.dtype(f"f{target.itemsize // 2}")
            operands = replace(operands, source=source.view(real), target=target.view(real))
        if target.dtype.kind in "iu":
            return _in_any_order(operands)
        one_node = operands.channel.one_node
        return on_one_node(operands) if one_node else between_nodes(operands)


def reproducible_sum(comm: MPI.Intracomm, array: np.ndarray) -> float:
    """The exact sum of all elements on all ranks, rounded once (collective).

    array : float32 or float64, any shape; shapes may differ between ranks

    As in IEEE 754, NaN, and infinities of both signs, give NaN. Raises `ConfigError` on all ranks
    for another dtype. ::

        mean = reproducible_sum(comm, samples) / comm.allreduce(samples.size)
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


def on_one_node(operands: Operands) -> SharedReduction:
    """Whoever computes an element sees the terms of all ranks."""
    return SharedReduction(operands, kernel=_kernel("reduce", operands.target.dtype))


def between_nodes(operands: Operands) -> Stages:
    """First the largest exponents of all terms, then the parts' sums: exact, in any order."""
    channel, source, target = operands.channel, operands.source, operands.target
    n = target.size
    top = channel.node.zeros((n,), np.uint16)
    # Those of float32 are summed in float64, and need no second part.
    parts = channel.node.zeros((2 * n if target.itemsize == 8 else n,))
    high, low = native.address(parts), native.address(parts[-n:])
    x, result, exponents = (native.address(array) for array in (source, target, top))

    def work(name: str, *arguments: int) -> Work:
        kernel = _kernel(name, target.dtype)
        return Work(native.bind(kernel, *arguments, n, keep=(source, target, top, parts)))

    def reduced(array: np.ndarray, op: MPI.Op) -> Persistent:
        return _in_any_order(Operands(channel, array, array, op, operands.deadline))

    return Stages(
        [
            work("exponents", exponents, x),
            reduced(top, MPI.MAX),
            work("split", high, low, exponents, x, channel.size),
            reduced(parts, MPI.SUM),
            work("join", result, high, low, exponents),
        ]
    )


def _in_any_order(operands: Operands) -> Persistent:
    """An operation that is exact, and so the same in any order."""
    channel = operands.channel
    if channel.size == 1:
        return alone(operands)
    return (Shared() if channel.one_node else Hierarchical()).bind(operands)


def _kernel(name: str, dtype: np.dtype) -> Any:
    return getattr(native.load(_KERNELS), f"{name}_{dtype.str[1:]}")
