"""Collectives: every algorithm of an allreduce, chosen by measurement, overlapped with compute."""

from hpckit.collectives.algorithms.reproducible import Reproducible, reproducible_sum
from hpckit.collectives.allreduce import Allreduce, allreduce
from hpckit.collectives.channel import empty
from hpckit.collectives.halves import Allgather, Bcast, ReduceScatter
from hpckit.collectives.ring_map import ring_map

__all__ = [
    "Allgather",
    "Allreduce",
    "Bcast",
    "ReduceScatter",
    "Reproducible",
    "allreduce",
    "empty",
    "reproducible_sum",
    "ring_map",
]
