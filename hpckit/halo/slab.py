"""A slab: what a rank sends to all partners, or receives from them, packed in a device's reach.

Kernels pack and unpack one memory and MPI sends and receives another, or both the same. In the
first case it is copied between them in *chunks*, so that the first messages are on their way while
later chunks are copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from mpi4py import MPI

from hpckit.comm.device import Device, Event, Memory
from hpckit.halo.bound_exchange import Step

CHUNK = 1 << 21  # bytes that are copied and sent at once; not yet measured on a GPU


class Message(NamedTuple):
    """Bytes of a slab, and the rank that they go to or come from."""

    rank: int
    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


class Chunk:
    """Messages side by side in a slab, at most one for each rank, as persistent requests."""

    def __init__(self, messages: Sequence[Message], requests: list[MPI.Prequest], copied: Event):
        self.begin = messages[0].offset
        self.nbytes = messages[-1].end - self.begin
        self.ranks: list[int | None] = [message.rank for message in messages]
        self.requests = requests
        self.start = partial(MPI.Prequest.Startall, requests)
        self.copied = copied
        """when the bytes are where MPI sends them from"""


class Slab:
    """The packed bytes of one direction.

    packed : where kernels have them
    staged : where MPI has them, maybe the same
    messages : in the order of their offsets
    init : what makes persistent requests, such as `comm.Send_init`
    tag : of all messages; several for one rank are begun in the same order by both ranks
    """

    def __init__(
        self,
        device: Device,
        packed: Memory,
        staged: Memory,
        messages: Sequence[Message],
        init: Callable[..., MPI.Prequest],
        tag: int,
    ) -> None:
        self._device = device
        self.packed = packed
        self.staged = staged
        self._is_copied = packed is not staged
        groups = _grouped(messages, CHUNK if self._is_copied else sys.maxsize)
        self.chunks = [
            Chunk(
                group,
                [init([_memory(staged, each), MPI.BYTE], each.rank, tag) for each in group],
                device.event(),
            )
            for group in groups
        ]
        self.pipelined = len(self.chunks) > 1

    @property
    def ranks(self) -> list[int | None]:
        return [rank for chunk in self.chunks for rank in chunk.ranks]

    @property
    def requests(self) -> list[MPI.Prequest]:
        return [request for chunk in self.chunks for request in chunk.requests]

    def copy_out(self, chunk: Chunk, stream: int) -> list[Step]:
        """Of a chunk to where MPI sends it from, if that is other memory."""
        return self._copy(self.staged, self.packed, chunk, stream)

    def copy_in(self, chunk: Chunk, stream: int) -> list[Step]:
        """Of a chunk from where MPI received it, if that is other memory."""
        return self._copy(self.packed, self.staged, chunk, stream)

    def _copy(self, target: Memory, source: Memory, chunk: Chunk, stream: int) -> list[Step]:
        ends = target.address + chunk.begin, source.address + chunk.begin
        copy = partial(self._device.copy, *ends, chunk.nbytes, stream)
        return [Step(copy)] if self._is_copied else []


def _grouped(messages: Sequence[Message], most: int) -> Iterator[list[Message]]:
    """Messages of `most` bytes together; longer ones are sent in parts of so many."""
    group: list[Message] = []
    for message in messages:
        for offset in range(message.offset, message.end, most):
            part = Message(message.rank, offset, min(most, message.end - offset))
            if group and part.end - group[0].offset > most:
                yield group
                group = []
            group.append(part)
    if group:
        yield group


def _memory(memory: Memory, message: Message) -> Any:
    """As MPI takes it."""
    if memory.host is not None:
        return memory.host[message.offset : message.end]
    return MPI.buffer.fromaddress(memory.address + message.offset, message.nbytes)
