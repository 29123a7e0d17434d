"""MPI's own allreduce."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import LIMIT, Channel
from hpckit.collectives.engine import in_time
from hpckit.comm.lifetime import free_with
from hpckit.errors import HpckitError


class Native:
    """Blocking when called, else `MPI_Iallreduce`, which progresses when polled."""

    def __init__(
        self, channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None = None
    ) -> None:
        datatype = MPI.Datatype.fromcode(target.dtype.char)
        in_place = np.shares_memory(source, target) or not target.size

        def arguments(part: slice) -> tuple:
            given = MPI.IN_PLACE if in_place else [source[part], datatype]
            return given, [target[part], datatype], op

        self._calls = [arguments(slice(start, start + LIMIT)) for start in range(0, max(target.size, 1), LIMIT)]
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
            raise HpckitError(f"MPI's allreduce waited {self._deadline} s: a rank is dead, late, or in another call")

    def __call__(self) -> None:
        if self._deadline is None:
            for arguments in self._calls:
                self._allreduce(*arguments)
        else:
            self.start()
            self.wait()
