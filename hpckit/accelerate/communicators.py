"""Communicators whose calls with derived datatypes pack by our kernels where that pays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from mpi4py import MPI

from hpckit.accelerate import devices, requests
from hpckit.accelerate.layouts import Pays, parcel
from hpckit.accelerate.parcels import Plain
from hpckit.accelerate.requests import Persistent
from hpckit.comm.strided import StridedBlock
from hpckit.errors import ConfigError

_WITH_BUFFERS = re.compile("send|recv|bcast|gather|scatter|alltoall|reduce|scan")  # calls that are


def _never(block: StridedBlock) -> bool:
    return False


class Intracomm(MPI.Intracomm):
    """One whose blocking messages go by `parcel`, and whose descendants are such as well.

    pays : whether to pack messages of a block. It is this rank's own matter: packed or not, the
        same bytes travel
    """

    pays: Pays = staticmethod(_never)

    def Send(self, buf: Any, dest: int, tag: int = 0) -> None:
        with parcel(buf, self.pays, readonly=True) as sent:
            sent.gather()
            super().Send(sent.message, dest, tag)

    def Bsend(self, buf: Any, dest: int, tag: int = 0) -> None:
        with parcel(buf, self.pays, readonly=True) as sent:
            sent.gather()
            super().Bsend(sent.message, dest, tag)

    def Ssend(self, buf: Any, dest: int, tag: int = 0) -> None:
        with parcel(buf, self.pays, readonly=True) as sent:
            sent.gather()
            super().Ssend(sent.message, dest, tag)

    def Rsend(self, buf: Any, dest: int, tag: int = 0) -> None:
        with parcel(buf, self.pays, readonly=True) as sent:
            sent.gather()
            super().Rsend(sent.message, dest, tag)

    def Recv(
        self,
        buf: Any,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        status = MPI.Status() if status is None else status
        with parcel(buf, self.pays) as received:
            super().Recv(received.message, source, tag, status)
            received.arrived(status)

    def Sendrecv(
        self,
        sendbuf: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        status = MPI.Status() if status is None else status
        with parcel(sendbuf, self.pays, readonly=True) as sent, parcel(recvbuf, self.pays) as came:
            sent.gather()
            super().Sendrecv(sent.message, dest, sendtag, came.message, source, recvtag, status)
            came.arrived(status)

    def Sendrecv_replace(
        self,
        buf: Any,
        dest: int,
        sendtag: int = 0,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> None:
        with parcel(buf, self.pays) as came:
            if isinstance(came, Plain):
                super().Sendrecv_replace(buf, dest, sendtag, source, recvtag, status)
            else:  # in slabs of their own, what goes and what comes are apart
                self.Sendrecv(buf, dest, sendtag, buf, source, recvtag, status)

    def Mprobe(
        self,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Message:
        return Message.of(super().Mprobe(source, tag, status), self.pays)

    def Improbe(
        self,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Message | None:
        found = super().Improbe(source, tag, status)
        return None if found is None else Message.of(found, self.pays)

    def Send_init(self, buf: Any, dest: int, tag: int = 0) -> Any:
        return self._persistent(super().Send_init, buf, dest, tag, sends=True)

    def Bsend_init(self, buf: Any, dest: int, tag: int = 0) -> Any:
        return self._persistent(super().Bsend_init, buf, dest, tag, sends=True)

    def Ssend_init(self, buf: Any, dest: int, tag: int = 0) -> Any:
        return self._persistent(super().Ssend_init, buf, dest, tag, sends=True)

    def Rsend_init(self, buf: Any, dest: int, tag: int = 0) -> Any:
        return self._persistent(super().Rsend_init, buf, dest, tag, sends=True)

    def Recv_init(self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG) -> Any:
        return self._persistent(super().Recv_init, buf, source, tag, sends=False)

    def _persistent(
        self, make: Callable[..., MPI.Request], buf: Any, rank: int, tag: int, sends: bool
    ) -> MPI.Request | Persistent:
        """MPI's request wherever it can take the buffer, and lists of requests are not ours."""
        taken = parcel(buf, self.pays if requests.are_installed() else _never, sends)
        request = make(taken.message, rank, tag)
        return request if isinstance(taken, Plain) else Persistent(request, taken, buf, sends)

    def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:
        if devices.is_used(sendbuf, recvbuf):
            devices.allreduce(self, sendbuf, recvbuf, op)
        else:
            super().Allreduce(sendbuf, recvbuf, op)

    def Idup(self, info: MPI.Info | None = None) -> tuple[Intracomm, MPI.Request]:
        return self._alike(*super().Idup(info))

    def Idup_with_info(self, info: MPI.Info) -> tuple[Intracomm, MPI.Request]:
        return self._alike(*super().Idup_with_info(info))

    def _alike(self, comm: Intracomm, request: MPI.Request) -> tuple[Intracomm, MPI.Request]:
        """It is of our class, but MPI may set its handle later: no other object may have it yet."""
        comm.pays = self.pays
        return comm, request


class Message(MPI.Message):
    """One that was probed for, by an accelerated communicator."""

    pays: Pays = staticmethod(_never)

    @classmethod
    def of(cls, message: MPI.Message, pays: Pays) -> Message:
        """The same message."""
        ours = cls(message)
        ours.pays = pays
        return ours

    def Recv(self, buf: Any, status: MPI.Status | None = None) -> None:
        status = MPI.Status() if status is None else status
        with parcel(buf, self.pays) as received:
            super().Recv(received.message, status)
            received.arrived(status)


class Cartcomm(Intracomm, MPI.Cartcomm):
    """Made by `Create_cart`, or by `Sub` of another."""

    def Sub(self, remain_dims: Sequence[bool]) -> Cartcomm:
        return wrap(super().Sub(remain_dims), self.pays)


class Graphcomm(Intracomm, MPI.Graphcomm):
    """Made by `Create_graph`."""


class Distgraphcomm(Intracomm, MPI.Distgraphcomm):
    """Made by `Create_dist_graph` and `Create_dist_graph_adjacent`."""


_KINDS = {
    MPI.Cartcomm: Cartcomm,
    MPI.Graphcomm: Graphcomm,
    MPI.Distgraphcomm: Distgraphcomm,
    MPI.Intracomm: Intracomm,
}


def check_kind(comm: MPI.Intracomm) -> None:
    """`ConfigError` where `wrap` would lose what a class of the user's adds."""
    if type(comm) not in {*_KINDS, *_KINDS.values()}:
        raise ConfigError(
            f"comm is a {type(comm).__name__}, whose own calls would be lost: accelerate the "
            "communicator that it was made of"
        )


def wrap(comm: MPI.Intracomm, pays: Pays) -> Any:
    """The same communicator, of our class for its kind."""
    kind = next(ours for mpis, ours in _KINDS.items() if isinstance(comm, mpis))
    ours = kind(comm)
    ours.pays = pays
    return ours


def _descendant(make: Callable[..., MPI.Intracomm]) -> Callable[..., Intracomm]:
    @wraps(make)
    def made(self: Intracomm, *args: Any, **kwargs: Any) -> Intracomm:
        return wrap(make(self, *args, **kwargs), self.pays)

    return made


def _of_the_host(call: Callable[..., Any]) -> Callable[..., Any]:
    """One that we leave to MPI, which shall never see a device's address."""

    @wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if devices.is_used(*args, *kwargs.values()):
            raise ConfigError(
                f"{call.__name__} cannot take an array on a device: use Send, Recv, Sendrecv, "
                "Allreduce or hpckit.Halo, or a copy on the host"
            )
        return call(self, *args, **kwargs)

    return checked


for _name in (
    *("Clone", "Dup", "Dup_with_info", "Create", "Create_group", "Split", "Split_type", "Shrink"),
    *("Create_cart", "Create_graph", "Create_dist_graph", "Create_dist_graph_adjacent"),
):
    setattr(Intracomm, _name, _descendant(getattr(MPI.Intracomm, _name)))
for _kind in (Intracomm, *_KINDS.values()):
    _ours = {name for each in _kind.__mro__ if each.__module__ == __name__ for name in vars(each)}
    for _name in {*dir(_kind)} - _ours:
        if _name[0].isupper() and _WITH_BUFFERS.search(_name.lower()):
            setattr(_kind, _name, _of_the_host(getattr(_kind, _name)))
Message.Irecv = _of_the_host(MPI.Message.Irecv)
