"""Queues in the memory of a node: one rank writes, one reads, and neither needs MPI for it.

A ring of slots and two counters, of messages sent and of messages dropped; each rank writes its own
and reads the other's only when what it knows of it is used up (L. Lamport, Proving the correctness
of multiprocess programs, IEEE Trans. Softw. Eng. 3, 1977).
"""

from __future__ import annotations

import numpy as np

from hpckit import native
from hpckit.errors import HpckitError

LINE = 64  # bytes of a cache line: where messages begin
_KERNELS = "hpckit.comm.queue_kernels"
_SENT = 0  # where the counters are: on lines that are not fetched together
_DROPPED = 2 * LINE
_SLOTS = 4 * LINE


def size(nbytes: int, slots: int) -> int:
    """Bytes of memory that a queue takes."""
    return _SLOTS + slots * pitch(nbytes)


def pitch(nbytes: int) -> int:
    """Bytes from one message to the next."""
    return -(-nbytes // LINE) * LINE


class SharedSender:
    """The end that writes.

    memory : `size(nbytes, slots)` zeros that begin on a cache line, the same for both ends
    """

    def __init__(self, memory: np.ndarray, nbytes: int, slots: int) -> None:
        self._messages = _messages(memory, nbytes, slots)
        self._dropped, self._advance = _counters(memory, _DROPPED, _SENT)
        self._sent = 0
        self._limit = slots  # so many may be sent before the other's counter is read again

    def room(self) -> np.ndarray | None:
        """See `queues.Sender`."""
        if self._sent == self._limit:
            self._limit = self._dropped() + len(self._messages)
            if self._sent == self._limit:
                return None
        return self._messages[self._sent % len(self._messages)]

    def send(self) -> None:
        """See `queues.Sender`."""
        if self._sent == self._limit:
            raise HpckitError("the queue is full: write and send only what room() has given")
        self._advance()
        self._sent += 1


class SharedReceiver:
    """The end that reads; parameters as those of `SharedSender`."""

    def __init__(self, memory: np.ndarray, nbytes: int, slots: int) -> None:
        self._messages = _messages(memory, nbytes, slots)
        self._sent, self._advance = _counters(memory, _SENT, _DROPPED)
        self._dropped = 0
        self._come = 0  # when we last looked

    @property
    def waiting(self) -> int:
        """See `queues.Receiver`."""
        self._come = self._sent()
        return self._come - self._dropped

    def peek(self) -> np.ndarray | None:
        """See `queues.Receiver`."""
        if self._dropped == self._come and not self.waiting:
            return None
        return self._messages[self._dropped % len(self._messages)]

    def drop(self) -> None:
        """See `queues.Receiver`."""
        if self._dropped == self._come:
            raise HpckitError("the queue is empty: drop only what peek() has given")
        self._advance()
        self._dropped += 1


def _messages(memory: np.ndarray, nbytes: int, slots: int) -> list[np.ndarray]:
    starts = [_SLOTS + slot * pitch(nbytes) for slot in range(slots)]
    return [memory[start : start + nbytes] for start in starts]


def _counters(memory: np.ndarray, theirs: int, ours: int):
    """What reads the other end's counter, and what adds one to ours."""
    kernels, base = native.load(_KERNELS), native.address(memory)
    return (
        native.bind(kernels.read, base + theirs, keep=memory),
        native.bind(kernels.advance, base + ours, keep=memory),
    )
