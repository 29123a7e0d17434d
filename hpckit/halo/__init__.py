"""Halo exchange of N-dimensional arrays, in the way that is fastest on this machine."""

from hpckit.halo.exchange import METHODS, Halo

__all__ = ["METHODS", "Halo"]
