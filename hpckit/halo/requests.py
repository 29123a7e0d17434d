"""MPI handles that live as long as a Python object."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from mpi4py import MPI


def free_with(owner: object, handles: Iterable[Any]) -> None:
    """Free these MPI handles when `owner` dies, unless MPI is finalised by then."""
    weakref.finalize(owner, _free, list(handles))


def _free(handles: list) -> None:
    if not MPI.Is_finalized():
        for handle in handles:
            handle.Free()
