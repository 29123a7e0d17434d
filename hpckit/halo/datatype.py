"""Way `datatype`: MPI walks the arrays itself, through one derived type per neighbour, by persistent requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack_host import Moves
from hpckit.comm.shared import free_with
from hpckit.halo.packed import Bound
from hpckit.halo.plan import Box, Plan

# A derived type of words is walked faster than one of bytes. Open MPI 5.0 packs some types wrongly whose strides are no
# multiples of the word, and takes a stride of -1 byte for +1 (docs/datatypes.md).
_WORDS = ((8, MPI.INT64_T), (4, MPI.INT32_T), (2, MPI.INT16_T), (1, MPI.BYTE))


class Datatype:
    """Nested strided types at absolute addresses: no copy of ours, whatever MPI makes of it."""

    def __init__(self, plan: Plan, tag: int) -> None:
        self._plan, self._tag = plan, tag

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        comm, own = self._plan.grid.comm, Moves(self._plan.own_moves(arrays))
        types, receives, sends = [], [], []
        for link in self._plan.links:
            if link.receives:
                types.append(self._type(arrays, link.receives))
                receives.append(comm.Recv_init([MPI.BOTTOM, 1, types[-1]], link.rank, self._tag))
            if link.sends:
                types.append(self._type(arrays, link.sends))
                sends.append(comm.Send_init([MPI.BOTTOM, 1, types[-1]], link.rank, self._tag))
        requests, start_all, wait_all = receives + sends, MPI.Prequest.Startall, MPI.Prequest.Waitall

        def start() -> None:
            own.run()
            start_all(requests)

        def wait() -> None:
            wait_all(requests)

        free_with(wait, *requests, *types)
        return Bound.of(start, wait)

    def _type(self, arrays: Sequence[np.ndarray], boxes: Sequence[Box]) -> MPI.Datatype:
        """All boxes of one link, at absolute addresses."""
        parts = [self._box_type(box) for box in boxes]
        starts = [native.address(arrays[b.field]) + self._plan.layouts[b.field].offset(b) for b in boxes]
        whole = MPI.Datatype.Create_struct([1] * len(parts), starts, parts).Commit()
        for part in parts:
            part.Free()
        return whole

    def _box_type(self, box: Box) -> MPI.Datatype:
        layout = self._plan.layouts[box.field]
        counts, strides = layout.walk(box)
        row = layout.dtype.itemsize
        size, word = next((n, word) for n, word in _WORDS if not any(step % n for step in (row, *strides)))
        datatype = word.Create_contiguous(row // size)
        for n, stride in zip(reversed(counts), reversed(strides), strict=True):
            backwards = [-i for i in range(n)] if stride == -1 else None
            inner, datatype = (
                datatype,
                (datatype.Create_hindexed_block(1, backwards) if backwards else datatype.Create_hvector(n, 1, stride)),
            )
            inner.Free()
        return datatype
