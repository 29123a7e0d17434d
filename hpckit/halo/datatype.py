"""Way `datatype`: MPI walks the arrays itself, through derived types, by persistent requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit.comm.pack_host import Move, Moves, simplify
from hpckit.halo.packed import DOING, Bound
from hpckit.halo.plan import Plan
from hpckit.machine.lifetime import free_with
from hpckit.machine.spin import complete, waiter

# A derived type of words is walked faster than one of bytes. Open MPI 5.0 packs some types wrongly
# whose strides are no multiples of the word, and takes a stride of -1 byte for +1
# (docs/datatypes.md).
_WORDS = ((8, MPI.INT64_T), (4, MPI.INT32_T), (2, MPI.INT16_T), (1, MPI.BYTE))
_FEW = 4  # boxes that go one by one, since MPI walks a plain nest faster; more share a message, since each has its price


class Datatype:
    """Nested strided types at absolute addresses: no copy of ours, whatever MPI makes of it."""

    def __init__(self, plan: Plan, tag: int) -> None:
        self._plan, self._tag = plan, tag

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        comm, own = self._plan.grid.comm, Moves(self._plan.own_moves(arrays))
        types, receives, sends = [], [], []
        for link in self._plan.links:
            for messages, make, boxes in (
                (receives, comm.Recv_init, link.receives),
                (sends, comm.Send_init, link.sends),
            ):
                nests = [simplify(move) for move in self._plan.pack_moves(arrays, boxes, 0)]
                for i, together in enumerate(
                    [[n] for n in nests] if len(nests) <= _FEW else [nests]
                ):
                    types.append(_type(together))
                    messages.append(
                        (link.rank, make([MPI.BOTTOM, 1, types[-1]], link.rank, self._tag + i))
                    )
        requests, start_all = [request for _, request in receives + sends], MPI.Prequest.Startall
        wait_all = waiter([rank for rank, _ in receives + sends], self._plan.deadline, DOING)

        def start() -> None:
            own.run()
            start_all(requests)

        def wait() -> None:
            wait_all(requests)

        free_with(wait, *requests, *types)
        return Bound.of(start, wait, partial(complete, requests), (self, wait))


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
