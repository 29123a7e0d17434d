"""Method `neighbor`: packed boxes through MPI's neighbourhood collective.

Some MPIs do that well on large machines.

A persistent collective (MPI 4): several are in flight at once, and started and completed in any
order. Open MPI 5.0.11 fills halos wrongly with those over Cartesian communicators, on periodic
dimensions of one or two ranks (open-mpi/ompi#14430); ours run over a graph in which each rank
appears once, and are tested when they are made.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, ClassVar

from mpi4py import MPI

from hpckit.errors import HpckitError, together
from hpckit.halo.packed import Packed, PackedBuffers, packed_cost
from hpckit.halo.pattern import Pattern
from hpckit.machine.lifetime import free_with

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.machine.model import Model

_SLOWER = 1.2  # than messages of the same bytes: there is more to do inside MPI

_graphs: weakref.WeakKeyDictionary[Grid, dict[Hashable, MPI.Distgraphcomm]] = (
    weakref.WeakKeyDictionary()
)


class Neighbor(Packed):
    """As `Packed`, but by one `MPI_Neighbor_alltoallv_init` over a graph of the partners."""

    name: ClassVar[str] = "neighbor"

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        return sum((_SLOWER * packed_cost(model, each) for each in pattern.sizes), 0.0)

    def _messages(self, tag: int) -> list[tuple[int | None, MPI.Prequest]]:
        buffers = self._buffers
        messages = buffers.messages()
        sent = [s.size for _, s, _ in messages], buffers.send_offsets[:-1]
        received = [r.size for _, _, r in messages], buffers.receive_offsets[:-1]
        send = [buffers.send, sent, MPI.BYTE]
        receive = [buffers.receive, received, MPI.BYTE]
        try:
            collective = _graph(self._pattern).Neighbor_alltoallv_init(send, receive)
        except NotImplementedError:
            raise HpckitError(
                f"{_library()} has no persistent collectives: use another method"
            ) from None
        requests = [(None, collective), *self._tokens(tag)]
        _test(self._pattern, buffers, [request for _, request in requests])
        return requests

    def _tokens(self, tag: int) -> list[tuple[int, MPI.Prequest]]:
        """Empty messages that tell a deadline who has come, which the collective does not."""
        comm = self._pattern.grid.comm
        ends = (comm.Recv_init, comm.Send_init) if self._pattern.deadline is not None else ()
        return [
            (partner.rank, make([None, 0, MPI.BYTE], partner.rank, tag))
            for make in ends
            for partner in self._pattern.partners
        ]


def _graph(pattern: Pattern) -> MPI.Distgraphcomm:
    """The grid's communicator for such partners, made once (collective): MPICH has few."""
    graphs = _graphs.setdefault(pattern.grid, {})
    key = (
        pattern.corners,
        bool(pattern.layouts),
        *((low > 0, high > 0) for low, high in pattern.width),
    )
    if key not in graphs:
        ranks = [partner.rank for partner in pattern.partners]
        # From a plain communicator: Open MPI takes a graph made from a Cartesian one for Cartesian.
        plain = MPI.Intracomm(pattern.grid.comm.Split())
        graphs[key] = plain.Create_dist_graph_adjacent(ranks, ranks)
        plain.Free()
        free_with(pattern.grid, graphs[key])
    return graphs[key]


def _test(pattern: Pattern, buffers: PackedBuffers, requests: list[MPI.Prequest]) -> None:
    """Every neighbour's bytes must arrive where they belong."""
    me = pattern.grid.rank
    for rank, sent, received in buffers.messages():
        sent[:], received[:] = (31 * me + 7 * rank) % 251, 255
    MPI.Prequest.Startall(requests)
    MPI.Prequest.Waitall(requests)
    with together(pattern.grid.comm):
        for rank, _, received in buffers.messages():
            if (received != (31 * rank + 7 * me) % 251).any():
                raise HpckitError(
                    f"MPI_Neighbor_alltoallv_init of {_library()} delivers wrong bytes from rank "
                    f"{rank}:"
                    " use another method"
                )


def _library() -> str:
    return MPI.Get_library_version().splitlines()[0]
