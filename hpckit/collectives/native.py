"""MPI's own allreduce."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.channel import LIMIT, Channel
from hpckit.collectives.engine import Stages, Way, Work, in_time
from hpckit.collectives.reduction import KERNELS, Reduction, datatype, grouped
from hpckit.errors import HpckitError
from hpckit.machine.lifetime import free_with


def by_mpi(
    channel: Channel,
    source: np.ndarray,
    target: np.ndarray,
    op: MPI.Op,
    deadline: float | None = None,
    group: int = 1,
) -> Way:
    """MPI's allreduce, and what it takes to keep the rule of `hpckit.collectives.reduction`.

    Extremes of floats are found among integers in the same order, which takes no copy and an
    operation that MPI knows best; sums and products lose the payloads of their NaN afterwards. In
    C, a bool that is neither 0 nor 1 is anything.
    """
    if target.dtype.kind == "b":
        source, target = source.view(np.uint8), target.view(np.uint8)
    reduction = Reduction(op, target.dtype, group)
    if (nan := reduction.nan_as_integer) is not None:
        return _by_integers(channel, source, target, op, deadline, nan)
    calls = Native(
        channel, source, target, reduction.through, deadline, 1 if reduction.name else group
    )
    finish = reduction.finish(target) if target.dtype.kind in "fc" else None
    return Stages([calls, Work(finish)]) if finish else calls


def _by_integers(
    channel: Channel,
    source: np.ndarray,
    target: np.ndarray,
    op: MPI.Op,
    deadline: float | None,
    nan: int,
) -> Way:
    integers, size = target.view(f"i{target.itemsize}"), target.itemsize
    order, restore = (
        getattr(native.load(KERNELS), f"{verb}_f{size}") for verb in ("order", "restore")
    )
    places = native.address(target), native.address(source)
    return Stages(
        [
            Work(native.bind(order, *places, nan, target.size, keep=(source, target))),
            Native(channel, integers, integers, op, deadline),
            Work(native.bind(restore, places[0], target.size, keep=target)),
        ]
    )


class Native:
    """Blocking when called, else `MPI_Iallreduce`, which progresses when polled."""

    def __init__(
        self,
        channel: Channel,
        source: np.ndarray,
        target: np.ndarray,
        op: MPI.Op,
        deadline: float | None = None,
        group: int = 1,
    ) -> None:
        unit = datatype(target.dtype.char, group)
        in_place = np.shares_memory(source, target) or not target.size
        source, target = grouped(source, group), grouped(target, group)

        def arguments(part: slice) -> tuple:
            given = MPI.IN_PLACE if in_place else [source[part], unit]
            return given, [target[part], unit], op

        self._calls = [
            arguments(slice(start, start + LIMIT)) for start in range(0, max(target.size, 1), LIMIT)
        ]
        self._allreduce, self._iallreduce = channel.comm.Allreduce, channel.comm.Iallreduce
        self._channel = channel  # whose communicator must not be freed before this
        self._requests: list[MPI.Request] = []  # in flight
        self._deadline = deadline
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
