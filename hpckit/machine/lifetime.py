"""What MPI may still read or write lives until it is complete, whoever lets go of it meanwhile.

An exception, the garbage collector or the end of the program may drop a plan between its start and
its wait. MPI does not notice: it goes on reading and writing the plan's memory. So requests are
freed once they are complete, and what they use lives until then.
"""

from __future__ import annotations

import atexit
import ctypes
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from mpi4py import MPI

from hpckit.errors import HpckitError

_T = TypeVar("_T")
_LOOKS = 64  # at what was left, in one call
_TIMEOUT = 1.0  # seconds that the end of the program waits for what is in flight

_owned: dict[int, tuple[weakref.ref, Sequence[Any], list | None, object]] = {}
_left: deque[tuple[Sequence[Any], object]] = deque()  # handles to free, and what they use
_leaving: deque[tuple[Callable[[], bool], object]] = deque()  # what gives back, what it needs
_unfinished: set[int] = set()  # communicators that stay
# MPI_Finalize comes after the interpreter's end, and may write until then.
for _immortal in (_owned, _left, _leaving):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_immortal))


def free_with(
    owner: object, *handles: Any, keep: object = None, flying: list | None = None
) -> None:
    """Free MPI handles some time after `owner` is gone; requests only when complete.

    keep : what the requests use: arrays, operations, types. It lives as long as `owner`, and on
        until they are complete
    flying : a list that `owner` keeps empty while nothing is in flight: then its memory is given
        back at once. Requests in it are waited for as well

    Not at once: the garbage collector may run inside a call of mpi4py that holds the lock which
    freeing a communicator takes, and the rank would wait for itself. What is left at the end is
    MPI_Finalize's.
    """
    _free()
    reference = weakref.ref(owner, _leave)
    _owned[id(reference)] = reference, handles, flying, keep


def never_free(comm: MPI.Comm) -> None:
    """Nobody will receive what may still come in `comm`; from anywhere, a finaliser too.

    What is sent in a communicator lies there until it is received, also when all ranks have freed
    it; and MPICH numbers them anew: the next of the same number would take such a message for its
    own.
    """
    _unfinished.add(MPI._handleof(comm))


@contextmanager
def finishing(comm: MPI.Comm) -> Iterator[None]:
    """A block that sends and receives in `comm`, which is never freed where the block raises."""
    try:
        yield
    except BaseException:
        never_free(comm)
        raise


def outlive(requests: Iterable[MPI.Request], keep: object) -> None:
    """Nobody will wait for these: they, and what they use, live until they are complete."""
    _left.append(([*requests], keep))


def leave(given_back: Callable[[], bool], keep: object = None) -> None:
    """Call this now and then until it says that all is given back; from anywhere, a finaliser too.

    For what others than MPI still use: devices, and ranks that read our memory.

    keep : lives until then
    """
    _leaving.append((given_back, keep))


class Flight:
    """Messages in flight with all that they use, until `land`, or longer after an exception.

    handle : to free when nothing uses it any more
    arrays : that the messages read or write
    """

    def __init__(self, handle: Any, *arrays: Any) -> None:
        self._requests: list[MPI.Request] = []
        self._arrays = [*arrays]
        free_with(self, handle, keep=self._arrays, flying=self._requests)

    def keep(self, array: _T) -> _T:
        """This one, too."""
        self._arrays.append(array)
        return array

    def add(self, request: MPI.Request) -> None:
        """It is in flight."""
        self._requests.append(request)

    def land(self) -> None:
        """Wait for all of them."""
        MPI.Request.Waitall(self._requests)
        self._requests.clear()


def _leave(reference: weakref.ref) -> None:
    """An owner is gone. Any thread may be here, in any state: nothing that calls MPI."""
    _, handles, flying, keep = _owned.pop(id(reference))
    requests = [item for item in flying or () if isinstance(item, MPI.Request)]
    _left.append(([*handles, *requests], keep if flying is None or flying else None))


def _free() -> None:
    for _ in range(min(len(_left), _LOOKS)):
        handles, keep = _left.popleft()
        if not _complete(handles):
            _left.append((handles, keep))
            continue
        for handle in handles:
            if not _stays(handle):
                handle.Free()
    for _ in range(min(len(_leaving), _LOOKS)):
        given_back, keep = _leaving.popleft()
        if not _is_given_back(given_back):
            _leaving.append((given_back, keep))


def _is_given_back(given_back: Callable[[], bool]) -> bool:
    try:
        return given_back()
    except HpckitError:  # it ended badly, but nobody wants to know any more
        return True


def _stays(handle: Any) -> bool:
    """Whether there is nothing to free, or it must not be."""
    if isinstance(handle, MPI.Request):
        return handle == MPI.REQUEST_NULL
    return isinstance(handle, MPI.Comm) and MPI._handleof(handle) in _unfinished


def _complete(handles: Iterable[Any]) -> bool:
    """Whether all requests among them are; each gets its turn."""
    return sum(not _ended(handle) for handle in handles if isinstance(handle, MPI.Request)) == 0


def _ended(request: MPI.Request) -> bool:
    try:
        return request == MPI.REQUEST_NULL or request.Test()
    except MPI.Exception:  # it ended badly, but nobody wants to know any more
        return True


@atexit.register
def _land() -> None:
    """Let what is in flight arrive, if soon: later its operations are gone with Python."""
    for reference, *_ in list(_owned.values()):
        _leave(reference)
    limit = time.monotonic() + _TIMEOUT
    while not MPI.Is_finalized() and not (
        _complete(handle for handles, _ in list(_left) for handle in handles)
        and all(_is_given_back(given_back) for given_back, _ in _leaving)
    ):
        if time.monotonic() > limit:
            break
        time.sleep(0.001)
