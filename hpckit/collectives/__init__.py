"""Collectives: every algorithm of an allreduce, chosen by measurement, overlapped with compute."""

from hpckit.collectives.plan import Allreduce

__all__ = ["Allreduce"]
