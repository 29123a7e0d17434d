"""Queues: messages of one size from one rank to another, written and read where they lie.

No call blocks; who has to wait does it by `hpckit.comm.alarm.Alarm.wait`, which notices errors and
deaths of other ranks. Within a node a queue is a piece of shared memory
(`hpckit.comm.shared_queue`), between nodes a window of messages (`hpckit.comm.message_queue`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, Protocol, Self

import numpy as np
from mpi4py import MPI

from hpckit.comm.message_queue import MessageReceiver, MessageSender
from hpckit.comm.shared_queue import SharedReceiver, SharedSender, size
from hpckit.errors import ConfigError, HpckitError, meet, same, together
from hpckit.log import get_logger
from hpckit.machine.node_memory import NodeMemory

Way = Literal["auto", "shared", "messages"]
_PAUSE = 1e-4  # seconds
_Pair = tuple[int, int]


class Sender(Protocol):
    """The end of a queue that writes."""

    def room(self) -> np.ndarray | None:
        """(nbytes,) uint8 on a cache line: the next message, to be written; None: full."""
        ...

    def send(self) -> None:
        """What was written into `room()` goes."""
        ...


class Receiver(Protocol):
    """The end of a queue that reads."""

    @property
    def waiting(self) -> int:
        """Messages that have come and were not dropped."""
        ...

    def peek(self) -> np.ndarray | None:
        """(nbytes,) uint8 on a cache line: the oldest message, to be read; None: none has come."""
        ...

    def drop(self) -> None:
        """Its place may be written again."""
        ...


class Queues:
    """The ends of queues that are on this rank; made by `open_queues`.

    senders : by receiving rank
    receivers : by sending rank
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.senders: dict[int, Sender] = {}
        self.receivers: dict[int, Receiver] = {}
        self._comm = comm

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Let go of the queues (collective, waits for all ranks); what nobody has read is lost.

        Where ranks may be missing, ask `Alarm.meet` first: without them nothing can be closed, and
        the memory stays until the end of the process.
        """
        meet(self._comm)
        sends = {to: each for to, each in self.senders.items() if isinstance(each, MessageSender)}
        receives = {
            at: each for at, each in self.receivers.items() if isinstance(each, MessageReceiver)
        }
        sent = self._comm.allgather({to: each.sent for to, each in sends.items()})
        rank = self._comm.rank
        while not all(
            [each.settle() for each in sends.values()]
            + [each.settle(sent[at][rank]) for at, each in receives.items()]
        ):
            time.sleep(_PAUSE)
        for each in (*sends.values(), *receives.values()):
            each.free()
        self.senders.clear()
        self.receivers.clear()
        self._comm.Free()


def open_queues(
    comm: MPI.Intracomm,
    pairs: Sequence[_Pair],
    nbytes: int,
    slots: int,
    way: Way = "auto",
) -> Queues:
    """A queue for each pair (sending rank, receiving rank), the same on all ranks (collective).

    nbytes : of each message
    slots : messages that a queue holds before it is full; one of messages holds up to twice as many
    way : shared memory within a node and messages between nodes, or one of them for all pairs

    Raises `ConfigError` on all ranks for pairs, sizes or ways that cannot be, and `HpckitError`
    where memory cannot be shared and `way` is "shared". ::

        with open_queues(comm, [(0, 1)], nbytes=800, slots=16) as queues:
            if comm.rank == 0:
                message = queues.senders[1].room()  # None: full, come back later
                message.view(float)[:] = 1.0
                queues.senders[1].send()
            elif comm.rank == 1:
                message = queues.receivers[0].peek()  # None: nothing there, come back later
    """
    _check(comm, pairs, nbytes, slots, way)
    memory = NodeMemory.of(comm)
    nodes = comm.allgather(min(memory.ranks))
    near = [pair for pair in pairs if nodes[pair[0]] == nodes[pair[1]]]
    if way == "shared" and len(near) < len(pairs):
        far = [pair for pair in pairs if pair not in near]
        raise ConfigError(
            f"way='shared': ranks {far[0][0]} and {far[0][1]} are on different nodes; use 'auto'"
        )
    queues = Queues(comm.Dup())
    here = [pair for pair in near if nodes[pair[0]] == nodes[comm.rank] and way != "messages"]
    with together(comm):
        shared = _parts(memory, here, size(nbytes, slots), way) if here else {}
    for pair in pairs:
        if comm.rank in pair:
            _add(queues, pair, shared.get(pair), nbytes, slots)
    return queues


def _add(queues: Queues, pair: _Pair, part: np.ndarray | None, nbytes: int, slots: int) -> None:
    comm = queues._comm
    sender, receiver = pair
    if comm.rank == sender:
        queues.senders[receiver] = (
            MessageSender(comm, receiver, nbytes, slots)
            if part is None
            else SharedSender(part, nbytes, slots)
        )
    else:
        queues.receivers[sender] = (
            MessageReceiver(comm, sender, nbytes, slots)
            if part is None
            else SharedReceiver(part, nbytes, slots)
        )


def _parts(
    memory: NodeMemory, pairs: Sequence[_Pair], nbytes: int, way: Way
) -> dict[_Pair, np.ndarray]:
    """The memory of each queue of this node, near its receiver (collective on the node)."""
    rank = memory.ranks[memory.comm.rank]
    count = sum(receiver == rank for _, receiver in pairs)
    try:
        mine = memory.zeros(count * nbytes, np.uint8)
    except HpckitError as error:
        if way == "shared":
            raise
        if memory.comm.rank == 0:
            get_logger(__name__).warning("queues take messages, not shared memory: %s", error)
        return {}
    arrays = memory.peers(mine)
    assert arrays is not None  # that is for arrays from elsewhere
    found: dict[_Pair, np.ndarray] = {}
    used = dict.fromkeys(memory.ranks, 0)
    for pair in pairs:
        start = used[pair[1]]
        used[pair[1]] = start + nbytes
        found[pair] = arrays[pair[1]][start : start + nbytes]
    return found


def _check(comm: MPI.Intracomm, pairs: Sequence[_Pair], nbytes: int, slots: int, way: Way) -> None:
    with together(comm):
        if way not in ("auto", "shared", "messages"):
            raise ConfigError(f"way={way!r} must be 'auto', 'shared' or 'messages'")
        if nbytes < 1 or slots < 1:
            raise ConfigError(f"nbytes={nbytes} and slots={slots} must be at least 1")
        for pair in pairs:
            if len({*pair} & {*range(comm.size)}) < 2 or len(pair) > 2:
                raise ConfigError(
                    f"pair {pair} must be two different ranks from 0 to {comm.size - 1}"
                )
        if len({*pairs}) < len(pairs):
            raise ConfigError(
                "a pair of ranks is named twice: there is one queue from rank to rank"
            )
    same(comm, "pairs, nbytes, slots and way of queues", (list(pairs), nbytes, slots, way))
