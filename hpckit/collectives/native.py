"""MPI's own allreduce."""

from __future__ import annotations

import os
import time

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel
from hpckit.errors import HpckitError


class Native:
    """Blocking when called, else `MPI_Iallreduce`, which progresses when polled."""

    def __init__(
        self, channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None = None
    ) -> None:
        datatype = MPI.Datatype.fromcode(target.dtype.char)
        same = np.shares_memory(source, target) or not target.size
        self._arguments = MPI.IN_PLACE if same else [source, source.size, datatype], [target, target.size, datatype], op
        self._allreduce, self._iallreduce = channel.comm.Allreduce, channel.comm.Iallreduce
        self._request, self._deadline = MPI.REQUEST_NULL, deadline

    def start(self) -> None:
        self._request = self._iallreduce(*self._arguments)

    def poll(self) -> bool:
        return self._request.Test()

    def wait(self) -> None:
        if self._deadline is None:
            self._request.Wait()
            return
        limit = time.monotonic() + self._deadline
        while not self._request.Test():
            if time.monotonic() > limit:
                raise HpckitError(
                    f"MPI's allreduce waited {self._deadline} s: a rank is dead, late, or in another call"
                )
            os.sched_yield()

    def __call__(self) -> None:
        if self._deadline is None:
            self._allreduce(*self._arguments)
        else:
            self.start()
            self.wait()
