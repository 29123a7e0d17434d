"""Collectives: every algorithm of an allreduce, chosen by measurement, overlapped with compute."""

from hpckit.collectives.channel import empty
from hpckit.collectives.halves import Allgather, Bcast, ReduceScatter
from hpckit.collectives.lgreco import LayerWise
from hpckit.collectives.local import LocalUpdates
from hpckit.collectives.plan import Allreduce, allreduce
from hpckit.collectives.reproducible import reproducible_sum
from hpckit.collectives.ring_map import ring_map
from hpckit.collectives.watch import Watch

__all__ = [
    "Allgather",
    "Allreduce",
    "Bcast",
    "LayerWise",
    "LocalUpdates",
    "ReduceScatter",
    "Watch",
    "allreduce",
    "empty",
    "reproducible_sum",
    "ring_map",
]
