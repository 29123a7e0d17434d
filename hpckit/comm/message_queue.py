"""Queues by MPI messages, for ranks of different nodes: a window of persistent requests.

Sends are synchronous, so that one that is complete has been taken by a receive: the sender never
has more than `slots` messages on the way, and nothing piles up in the receiver's MPI library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.shared_queue import LINE, pitch
from hpckit.errors import HpckitError
from hpckit.machine.lifetime import free_with


class MessageSender:
    """The end that writes, to rank `peer` of `comm`; messages of one pair come in their order."""

    def __init__(self, comm: MPI.Intracomm, peer: int, nbytes: int, slots: int) -> None:
        self._messages = _messages(nbytes, slots)
        self._requests = [
            MPI.Prequest(comm.Ssend_init([message, nbytes, MPI.BYTE], peer))
            for message in self._messages
        ]
        free_with(self, *self._requests, keep=self._messages)
        self.sent = 0
        self._taken = 0

    def room(self) -> np.ndarray | None:
        """See `queues.Sender`."""
        if self._taken < self.sent and self._requests[self._taken % len(self._requests)].Test():
            self._taken += 1
        if self.sent - self._taken == len(self._requests):
            return None
        return self._messages[self.sent % len(self._messages)]

    def send(self) -> None:
        """See `queues.Sender`."""
        if self.sent - self._taken == len(self._requests):
            raise HpckitError("the queue is full: write and send only what room() has given")
        self._requests[self.sent % len(self._requests)].Start()
        self.sent += 1

    def settle(self) -> bool:
        """Whether all that was sent has been taken."""
        while self._taken < self.sent and self.room() is not None:
            pass
        return self._taken == self.sent

    def free(self) -> None:
        """After `settle`."""
        for request in self._requests:
            request.Free()


class MessageReceiver:
    """The end that reads, from rank `peer` of `comm`."""

    def __init__(self, comm: MPI.Intracomm, peer: int, nbytes: int, slots: int) -> None:
        self._messages = _messages(nbytes, slots)
        self._requests = [
            comm.Recv_init([message, nbytes, MPI.BYTE], peer) for message in self._messages
        ]
        free_with(self, *self._requests, keep=self._messages)
        MPI.Prequest.Startall(self._requests)
        self._come = 0
        self._dropped = 0

    @property
    def waiting(self) -> int:
        """See `queues.Receiver`."""
        while self._come - self._dropped < len(self._requests) and self._next():
            pass
        return self._come - self._dropped

    def peek(self) -> np.ndarray | None:
        """See `queues.Receiver`."""
        if self._dropped == self._come and not self._next():
            return None
        return self._messages[self._dropped % len(self._messages)]

    def drop(self) -> None:
        """See `queues.Receiver`."""
        if self._dropped == self._come:
            raise HpckitError("the queue is empty: drop only what peek() has given")
        self._requests[self._dropped % len(self._requests)].Start()
        self._dropped += 1

    def settle(self, sent: int) -> bool:
        """Drop what comes; whether these were all that the other end has sent."""
        while self.peek() is not None:
            self.drop()
        return self._dropped == sent

    def free(self) -> None:
        """After `settle`: nothing will come for the receives that are left."""
        for request in self._requests:
            request.Cancel()
            request.Wait()
            request.Free()

    def _next(self) -> bool:
        if not self._requests[self._come % len(self._requests)].Test():
            return False
        self._come += 1
        return True


def _messages(nbytes: int, slots: int) -> Sequence[np.ndarray]:
    memory = np.zeros(slots * pitch(nbytes) + LINE, np.uint8)
    first = -native.address(memory) % LINE
    starts = range(first, first + slots * pitch(nbytes), pitch(nbytes))
    return [memory[start : start + nbytes] for start in starts]
