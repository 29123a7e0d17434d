"""A plan's arrays, by the place where they are, and what carries them to an algorithm and back.

An algorithm takes contiguous operands in memory of one kind, the host's or a device's. What lies
otherwise is copied there before each operation, and the result back after it: strided arrays by one
sweep, arrays of a device to page-locked memory where the algorithm is the host's. So every
algorithm serves every array.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpckit.collectives.persistent import Operands, Persistent
from hpckit.comm.device import Host
from hpckit.comm.pack import Packer
from hpckit.comm.strided import from_array
from hpckit.machine.overlap import identical


class Staged:
    """An operation on copies: `bring` makes those that it reads, `take` copies what it gives."""

    def __init__(
        self, operation: Persistent, bring: Callable[[], object], take: Callable[[], object]
    ) -> None:
        self._operation = operation
        self._bring = bring
        self._take = take
        self._begun = False

    def start(self) -> None:
        self._bring()
        self._operation.start()
        self._begun = True

    def poll(self) -> bool:
        complete = self._operation.poll()
        if complete:
            self._end()
        return complete

    def wait(self) -> None:
        self._operation.wait()
        self._end()

    def __call__(self) -> None:
        self._bring()
        self._operation()
        self._take()

    def _end(self) -> None:
        if self._begun:
            self._begun = False
            self._take()


class HostArrays:
    """Arrays in host memory: algorithms get them as they are where they are contiguous.

    flat : source and target, (n,) contiguous: views where that can be, else buffers
    """

    def __init__(
        self, source: np.ndarray, target: np.ndarray, order: str, place: Host, stream: int
    ) -> None:
        self._strided = order == "strided"
        if not self._strided:
            self.flat = _flattened(source, order), _flattened(target, order)
            return
        first = np.empty(source.size, source.dtype)
        self.flat = first, first if identical(source, target) else np.empty_like(first)
        packers = Packer(from_array(source)), Packer(from_array(target))
        self._bring = lambda: packers[0].pack(source, out=self.flat[0])
        self._take = lambda: packers[1].unpack(self.flat[1], target)

    def operands(self, whole: Operands, kind: str) -> Operands:
        """The whole of them, as algorithms of this kind take them."""
        return whole

    def around(self, operation: Persistent, part: slice, kind: str) -> Persistent:
        """The operation on a part of what `operands` gave, as one on the arrays themselves."""
        return Staged(operation, self._bring, self._take) if self._strided else operation

    def settle(self) -> None:
        """The host waits until results are where they belong."""


def _flattened(array: np.ndarray, order: str) -> np.ndarray:
    return (array.T if order == "F" else array).reshape(-1)


ARRAYS = {"host": HostArrays}
