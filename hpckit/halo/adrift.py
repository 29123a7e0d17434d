"""Exchanges begun that nobody will wait for: an exception, say, has taken their `Halo`.

The neighbours still read from, write to and wait for what they use. So it lives until they are
complete, which is seen to at the next use of any halo, and when the interpreter ends.
"""

from __future__ import annotations

import atexit
import ctypes
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mpi4py import MPI

from hpckit.errors import HpckitError

if TYPE_CHECKING:
    from hpckit.halo.bound_exchange import Exchange

_TIMEOUT = 1.0  # seconds that the end of the program waits for the others


class _Halo(Protocol):
    """What a `Halo` does for the others."""

    def progress(self) -> None: ...

    def abandon(self) -> None: ...


adrift: list[tuple[Exchange, object]] = []  # and the arrays
owed: dict[int, Callable[[], object]] = {}
"""by exchange, what begins sends whose data a device packs, and leaves; a rank begins them before
it waits for others, who may wait for them"""
halos: weakref.WeakSet[_Halo] = weakref.WeakSet()  # all that live
# MPI_Finalize comes after the interpreter's end, and what is not complete by then must not be given
# back before.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(adrift))


def land() -> None:
    """Complete what can be completed without blocking."""
    for flight in adrift[:]:
        if _is_over(flight[0]):
            adrift.remove(flight)


def begin_owed() -> None:
    """Wait for this rank's own device, not for others, and begin the sends that wait for it."""
    for send in [*owed.values()]:
        send()


def help_others() -> None:
    """Whoever waits does meanwhile what others, who wait in another order, may wait for."""
    land()
    for halo in list(halos):
        halo.progress()


def _is_over(exchange: Exchange) -> bool:
    try:
        return exchange.poll()
    except (MPI.Exception, HpckitError):  # it ended badly, and nobody is there to be told
        return True


@atexit.register
def _end() -> None:
    for halo in list(halos):
        halo.abandon()
    limit = time.monotonic() + _TIMEOUT
    while adrift and not MPI.Is_finalized() and time.monotonic() < limit:
        land()
        time.sleep(0.001)
