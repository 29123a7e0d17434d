"""Method `datatype`: MPI walks the arrays itself, through derived types, by persistent requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from mpi4py import MPI

from hpckit.comm.pack import Move, Moves, simplify
from hpckit.halo.bound_exchange import DOING, Exchange
from hpckit.halo.pattern import Pattern
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import complete, waiter

if TYPE_CHECKING:
    from hpckit.machine.model import Model

# A derived type of words is walked faster than one of bytes. Open MPI 5.0 packs some types wrongly
# whose strides are no multiples of the word, and takes a stride of -1 byte for +1
# (docs/datatypes.md).
_WORDS = ((8, MPI.INT64_T), (4, MPI.INT32_T), (2, MPI.INT16_T), (1, MPI.BYTE))
# Boxes that go one by one, since MPI walks a plain nest faster; more of them share a message, since
# each message has its price.
_FEW = 4


class Datatype:
    """Nested strided types at absolute addresses: no copy of ours, whatever MPI makes of it."""

    name: ClassVar[str] = "datatype"
    pointers: ClassVar[str] = "host"

    def __init__(self, pattern: Pattern, tag: int) -> None:
        self._pattern = pattern
        self._tag = tag

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return True

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        seconds = 0.0
        for sizes in pattern.sizes:
            rows = sum(n / row for n, row in sizes.sends)
            if rows:
                seconds += model.datatype(sizes.nbytes, int(sizes.nbytes / rows), sizes.near)
        return seconds

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        comm = self._pattern.grid.comm
        own = Moves(self._pattern.own_moves(arrays))
        types: list[MPI.Datatype] = []
        receives: list[tuple[int, MPI.Prequest]] = []
        sends: list[tuple[int, MPI.Prequest]] = []
        for partner in self._pattern.partners:
            for messages, make, boxes in (
                (receives, comm.Recv_init, partner.receives),
                (sends, comm.Send_init, partner.sends),
            ):
                nests = [simplify(move) for move in self._pattern.pack_moves(arrays, boxes, 0)]
                groups = [[nest] for nest in nests] if len(nests) <= _FEW else [nests]
                for i, group in enumerate(groups):
                    types.append(_type(group))
                    request = make([MPI.BOTTOM, 1, types[-1]], partner.rank, self._tag + i)
                    messages.append((partner.rank, request))
        requests = [request for _, request in receives + sends]
        start_all = MPI.Prequest.Startall
        wait_all = waiter([rank for rank, _ in receives + sends], self._pattern.deadline, DOING)

        def start() -> None:
            own.run()
            start_all(requests)

        def wait() -> None:
            wait_all(requests)

        free_with(wait, *requests, *types)
        return Exchange.of(start, wait, partial(complete, requests), (self, wait))


def _type(nests: Sequence[Move]) -> MPI.Datatype:
    """The sources of some moves, at their absolute addresses."""
    parts = [_nest(nest) for nest in nests]
    starts = [nest.source for nest in nests]
    if len(parts) == 1:
        whole = parts[0].Create_hindexed([1], starts).Commit()
    else:
        whole = MPI.Datatype.Create_struct([1] * len(parts), starts, parts).Commit()
    for part in parts:
        part.Free()
    return whole


def _nest(nest: Move) -> MPI.Datatype:
    steps = nest.source_strides
    size, word = next(
        (n, word) for n, word in _WORDS if not any(step % n for step in (nest.row, *steps))
    )
    datatype = word.Create_contiguous(nest.row // size)
    for n, step in zip(reversed(nest.shape), reversed(steps), strict=True):
        inner = datatype
        if step == -1:
            datatype = inner.Create_hindexed_block(1, [-i for i in range(n)])
        else:
            datatype = inner.Create_hvector(n, 1, step)
        inner.Free()
    return datatype
