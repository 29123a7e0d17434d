"""Persistent requests of packed messages, alone and in lists with those of MPI.

MPI knows of such a request only the packed bytes, so it must never start or complete one by itself:
they would not be gathered, or not scattered. mpi4py's functions of lists, such as
`MPI.Request.Waitall`, call no method of what is in the list. So a `Persistent` is no `MPI.Request`,
which they refuse, and `Request` and `Prequest` are classes whose functions take both; `install`
gives them the names of MPI's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

from hpckit.accelerate.parcels import Parcel

_MPI_REQUEST = MPI.Request
_MPI_PREQUEST = MPI.Prequest


class Persistent:
    """A persistent request whose message is gathered at each start, or scattered when it has come.

    request : of the packed bytes
    parcel : its own until it is freed
    buffer : as the user gave it; it lives as long
    sends : else it receives
    """

    def __init__(self, request: MPI.Request, parcel: Parcel, buffer: Any, sends: bool) -> None:
        self.request = request
        self._parcel = parcel
        self._buffer = buffer
        self._sends = sends
        self._active = False

    def begin(self) -> None:
        """Before the request is started."""
        if self._sends:
            self._parcel.gather()
        self._active = True

    def land(self, status: MPI.Status) -> None:
        """After the request was found complete; a second time, or before a start, is nothing."""
        if self._active and not self._sends and not status.Is_cancelled():
            self._parcel.arrived(status)
        self._active = False

    def Start(self) -> None:
        Prequest.Startall([self])

    def Wait(self, status: MPI.Status | None = None) -> bool:
        return Prequest.Waitall([self], None if status is None else [status])

    def Test(self, status: MPI.Status | None = None) -> bool:
        return Prequest.Testall([self], None if status is None else [status])

    def Get_status(self, status: MPI.Status | None = None) -> bool:
        status = MPI.Status() if status is None else status
        done = self.request.Get_status(status)
        if done:
            self.land(status)
        return done

    def Cancel(self) -> None:
        self.request.Cancel()

    def Free(self) -> None:
        """What MPI may still use is not given to the next request."""
        self.request.Free()
        if not self._active:
            self._parcel.__exit__()

    def __bool__(self) -> bool:
        return bool(self.request)

    def __eq__(self, other: object) -> bool:
        return self.request == (other.request if isinstance(other, Persistent) else other)


class _Both(type):
    """What is an instance of MPI's class, or a `Persistent`, is one of ours as well."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls not in (Request, Prequest):  # but derived from one, by somebody else
            return super().__instancecheck__(instance)
        return isinstance(instance, (_MPI_REQUEST if cls is Request else _MPI_PREQUEST, Persistent))


class _Lists:
    """mpi4py's functions of lists, for lists of both kinds."""

    @classmethod
    def Waitany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> int:
        status = MPI.Status() if status is None else status
        index = _MPI_REQUEST.Waitany(_mpis(requests), status)
        _land(requests, [index], [status])
        return index

    @classmethod
    def Testany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, bool]:
        return _any(_MPI_REQUEST.Testany, requests, status)

    @classmethod
    def Waitall(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> Any:
        return _all(_MPI_REQUEST.Waitall, requests, statuses)

    @classmethod
    def Testall(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> bool:
        return _all(_MPI_REQUEST.Testall, requests, statuses)

    @classmethod
    def Waitsome(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> list[int] | None:
        return _some(_MPI_REQUEST.Waitsome, requests, statuses)

    @classmethod
    def Testsome(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> list[int] | None:
        return _some(_MPI_REQUEST.Testsome, requests, statuses)

    # A look at what is complete lands it too: MPICH 5.0.2 gives the status of a persistent request
    # to the first who asks, and later ones an empty one.

    @classmethod
    def Get_status_any(
        cls, requests: Sequence[Any], status: MPI.Status | None = None
    ) -> tuple[int, bool]:
        return _any(_MPI_REQUEST.Get_status_any, requests, status)

    @classmethod
    def Get_status_all(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> bool:
        return _all(_MPI_REQUEST.Get_status_all, requests, statuses)

    @classmethod
    def Get_status_some(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> list[int] | None:
        return _some(_MPI_REQUEST.Get_status_some, requests, statuses)


class Request(_Lists, MPI.Request, metaclass=_Both):
    """`MPI.Request`, whose functions of lists take a `Persistent` as well."""


class Prequest(_Lists, MPI.Prequest, metaclass=_Both):
    """`MPI.Prequest`, whose functions of lists take a `Persistent` as well."""

    @classmethod
    def Startall(cls, requests: Sequence[Any]) -> None:
        for each in requests:
            if isinstance(each, Persistent):
                each.begin()
        _MPI_PREQUEST.Startall(_mpis(requests))


def install() -> None:
    """Let `MPI.Request` and `MPI.Prequest` be these, for whoever asks for them from now on."""
    MPI.Request = Request
    MPI.Prequest = Prequest


def are_installed() -> bool:
    """Whether a program that writes `MPI.Prequest.Startall` calls that of `Prequest`."""
    return MPI.Prequest is Prequest


def _mpis(requests: Sequence[Any]) -> list[Any]:
    return [each.request if isinstance(each, Persistent) else each for each in requests]


def _any(
    complete: Callable[..., tuple[int, bool]], requests: Sequence[Any], status: MPI.Status | None
) -> tuple[int, bool]:
    status = MPI.Status() if status is None else status
    index, flag = complete(_mpis(requests), status)
    _land(requests, [index] if flag else [], [status])
    return index, flag


def _all(
    complete: Callable[..., bool], requests: Sequence[Any], statuses: list[MPI.Status] | None
) -> bool:
    found = [] if statuses is None else statuses  # mpi4py makes lists as long as is needed
    done = complete(_mpis(requests), found)
    if done:
        _land(requests, range(len(requests)), found)
    return done


def _some(
    complete: Callable[..., list[int] | None],
    requests: Sequence[Any],
    statuses: list[MPI.Status] | None,
) -> list[int] | None:
    found = [] if statuses is None else statuses
    indices = complete(_mpis(requests), found)
    _land(requests, indices or (), found)
    return indices


def _land(requests: Sequence[Any], indices: Sequence[int], statuses: Sequence[MPI.Status]) -> None:
    """Those of them that are ours; none where the index is `MPI.UNDEFINED`."""
    for index, status in zip(indices, statuses, strict=False):
        if index >= 0 and isinstance(requests[index], Persistent):
            requests[index].land(status)
