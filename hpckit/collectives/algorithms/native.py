"""MPI's own allreduce, and what it takes to keep the rule of `hpckit.collectives.reduction`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.channel import LIMIT
from hpckit.collectives.persistent import Operands, Persistent, Stages, Work, in_time
from hpckit.collectives.reduction import KERNELS, Reduction, datatype, grouped
from hpckit.errors import HpckitError
from hpckit.machine.lifetime import free_with


class Native(Algorithm):
    """MPI's allreduce: no copy of ours, no choice of ours.

    Extremes of floats are found among integers in the same order, which takes no copy and an
    operation that MPI knows best; sums and products lose the payloads of their NaN afterwards. In
    C, a bool that is neither 0 nor 1 is anything.
    """

    name = "native"
    in_rank_order = True

    def bind(self, operands: Operands) -> Persistent:
        source, target = operands.source, operands.target
        if target.dtype.kind == "b":
            source, target = source.view(np.uint8), target.view(np.uint8)
        reduction = Reduction(operands.op, target.dtype, operands.group)
        operands = replace(
            operands,
            source=source,
            target=target,
            op=reduction.through,
            group=1 if reduction.name else operands.group,
        )
        if (nan := reduction.nan_as_integer) is not None:
            return _among_integers(operands, nan)
        reduce = MPIAllreduce(operands)
        finish = reduction.finish(target) if target.dtype.kind in "fc" else None
        return Stages([reduce, Work(finish)]) if finish else reduce


def _among_integers(operands: Operands, nan: int) -> Stages:
    """An extreme of floats; `nan` is what NaN is as an integer."""
    source, target = operands.source, operands.target
    kernels, size = native.load(KERNELS), target.itemsize
    order, restore = getattr(kernels, f"order_f{size}"), getattr(kernels, f"restore_f{size}")
    to, given = native.address(target), native.address(source)
    integers = target.view(f"i{size}")
    return Stages(
        [
            Work(native.bind(order, to, given, nan, target.size, keep=(source, target))),
            MPIAllreduce(replace(operands, source=integers, target=integers)),
            Work(native.bind(restore, to, target.size, keep=target)),
        ]
    )


class MPIAllreduce:
    """Blocking when called, else `MPI_Iallreduce`, which progresses when polled."""

    def __init__(self, operands: Operands) -> None:
        unit = datatype(operands.target.dtype.char, operands.group)
        source = grouped(operands.source, operands.group)
        target = grouped(operands.target, operands.group)
        in_place = np.shares_memory(operands.source, operands.target) or not target.size
        parts = [slice(start, start + LIMIT) for start in range(0, max(target.size, 1), LIMIT)]
        self._calls = [
            (MPI.IN_PLACE if in_place else [source[part], unit], [target[part], unit], operands.op)
            for part in parts
        ]
        self._channel = operands.channel  # whose communicator must not be freed before this
        self._allreduce = self._channel.comm.Allreduce
        self._iallreduce = self._channel.comm.Iallreduce
        self._deadline = operands.deadline
        self._requests: list[MPI.Request] = []  # in flight
        free_with(self, keep=self._calls, flying=self._requests)

    def start(self) -> None:
        for arguments in self._calls:
            self._requests.append(self._iallreduce(*arguments))

    def poll(self) -> bool:
        complete = MPI.Request.Testall(self._requests)
        if complete:
            self._requests.clear()
        return complete

    def wait(self) -> None:
        if self._deadline is None:
            MPI.Request.Waitall(self._requests)
            self._requests.clear()
        elif not in_time(self.poll, self._deadline):
            raise HpckitError(
                f"MPI's allreduce waited {self._deadline} s: a rank is dead, late, or in another "
                "call"
            )

    def __call__(self) -> None:
        if self._deadline is None:
            for arguments in self._calls:
                self._allreduce(*arguments)
        else:
            self.start()
            self.wait()
