"""Way `neighbor`: packed boxes through MPI's neighbourhood collective, which some MPIs do well on large machines.

Only the blocking collective is used: Open MPI 5.0.11 fills halos wrongly with the non-blocking and persistent ones on
periodic dimensions of one or two ranks (open-mpi/ompi#14430). The collective is tested once, when the way is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from hpckit.comm.lifetime import free_with
from hpckit.comm.pack_host import Moves
from hpckit.errors import HpckitError, together
from hpckit.halo.packed import Bound, PackedBuffers
from hpckit.halo.plan import Plan


class Neighbor:
    """`MPI_Neighbor_alltoallv` over a graph in which every neighbouring rank appears once. It blocks: no overlap."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._buffers = PackedBuffers(plan, plan.links)
        ranks = [link.rank for link in plan.links]
        # A plain communicator: Open MPI takes a graph made from a Cartesian one for Cartesian.
        plain = MPI.Intracomm(plan.grid.comm.Split())
        self._graph = plain.Create_dist_graph_adjacent(ranks, ranks)
        free_with(self, self._graph, plain)
        messages = self._buffers.messages()
        self._send = [self._buffers.send, ([s.size for _, s, _ in messages], self._buffers.send_offsets[:-1]), MPI.BYTE]
        self._receive = [
            self._buffers.receive,
            ([r.size for _, _, r in messages], self._buffers.receive_offsets[:-1]),
            MPI.BYTE,
        ]
        self._self_test()

    def _self_test(self) -> None:
        """Every neighbour's bytes must arrive where they belong."""
        me = self._plan.grid.rank
        for rank, sent, received in self._buffers.messages():
            sent[:], received[:] = (31 * me + 7 * rank) % 251, 255
        self._graph.Neighbor_alltoallv(self._send, self._receive)
        with together(self._plan.grid.comm):
            for rank, _, received in self._buffers.messages():
                if (received != (31 * rank + 7 * me) % 251).any():
                    raise HpckitError(
                        f"MPI_Neighbor_alltoallv of {MPI.Get_library_version().splitlines()[0]} delivers wrong bytes"
                        f" from rank {rank}: use another method"
                    )

    def bind(self, arrays: Sequence[np.ndarray]) -> Bound:
        pack = Moves(self._buffers.outgoing(arrays) + self._plan.own_moves(arrays))
        unpack = Moves(self._buffers.incoming(arrays))
        exchange, send, receive = self._graph.Neighbor_alltoallv, self._send, self._receive

        def wait() -> None:
            exchange(send, receive)
            unpack.run()

        return Bound.of(pack.run, wait)
