"""What ranks tell each other while MPI blocks: a thread on rank 0, a line to it from each.

MPI does not say for whom it waits, and a thread may not call it everywhere. So this goes by
sockets: lines of JSON. A line that ends tells that its process did. The port is open until all
ranks are connected, to those who know the secret that they share (`hpckit.watch.stream`).

From a rank: `call` number, call (before a collective that is to be compared), `wait` number (it
asks if they agree), `late` number (it takes long), `where` number, how many were entered, text
(answers `ask`), `left` text. To a rank: `verdict` number, error or null; `ask` number; `report`
text.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from mpi4py import MPI

from hpckit.errors import HpckitError, by_rank, ranges, together
from hpckit.log import get_logger
from hpckit.machine.node_memory import NodeMemory
from hpckit.watch.calls import Call, disagreement
from hpckit.watch.stream import Stream, let_in, listen, reach

_ANSWER = 1.0  # seconds that a rank has to say where it is
_NEVER = float("inf")
_MONITOR = "hpckit monitor"
_lines: weakref.WeakSet[Line] = weakref.WeakSet()


class Line:
    """This rank's line to the monitor, which lives on rank 0 (constructing is collective).

    patience : seconds, as of `Watch`
    where : how many collectives this rank has entered, and what it does now
    late : number of the collective in which this rank is for longer than `patience`, or None
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        patience: float,
        where: Callable[[], tuple[int, str]],
        late: Callable[[], int | None],
    ) -> None:
        self._comm = comm
        self._patience = patience
        self._where = where
        self._late = late
        self._verdicts: dict[int, str | None] = {}
        self._asked: set[int] = set()
        self._news = threading.Condition()
        self._broken = ""
        self._stream = _connected(comm, patience)
        threading.Thread(target=self._listen, name="hpckit watch", daemon=True).start()
        _lines.add(self)

    def call(self, number: int, call: Call) -> None:
        """Tell the monitor that this rank is about to make its collective `number`."""
        self._stream.send("call", number, call)

    def verdict(self, number: int, wait: bool = True) -> bool:
        """Whether it is known that all ranks make that collective; `HpckitError` where they do not.

        Only the monitor decides: a rank that gave up before would leave the others, who may be told
        to go on, alone.
        """
        due = time.monotonic() + self._patience + 2 * _ANSWER
        self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)  # others may need our messages to come here
        with self._news:
            if number not in self._verdicts and number not in self._asked:
                self._asked.add(number)
                self._stream.send("wait", number)
            while wait and number not in self._verdicts and not self._broken:
                self._news.wait(0.001)
                self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)
                if time.monotonic() > due:
                    due = _NEVER
                    get_logger(__name__).warning(
                        f"rank 0 does not say whether all ranks come to collective {number} of the "
                        "watch, for longer"
                        f" than {self._patience:g} s: stopped, or in a call that blocks Python"
                    )
            known = number in self._verdicts
            error = self._verdicts.get(number, self._broken)
            if error:
                raise HpckitError(error)
            if known:
                del self._verdicts[number]
                self._asked.discard(number)
        return known

    def close(self, text: str) -> None:
        """This rank takes no part any more."""
        self._stream.send("left", text)
        self._stream.finish()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stream.socket, selectors.EVENT_READ)
            told = None
            while True:
                if selector.select(min(self._patience / 4, 1.0)):
                    messages = self._stream.receive()
                    if messages is None:
                        break
                    for message in messages:
                        self._hear(*message)
                number = self._late()
                if number is not None and number != told:
                    told = number
                    self._stream.send("late", number)
        self._stream.socket.close()
        with self._news:
            self._broken = "rank 0 has ended, or has left the watch"
            self._news.notify()

    def _hear(self, word: str, *message: Any) -> None:
        if word == "verdict":
            with self._news:
                self._verdicts[message[0]] = message[1]
                self._news.notify()
        elif word == "ask":
            self._stream.send("where", message[0], *self._where())
        elif word == "report":
            get_logger(__name__).warning(message[0])


class _Round:
    """A collective compared before it is made; `until` begins with the first rank that asks."""

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self.until = _NEVER
        self.verdict: str | None = None


class _Inquiry:
    """Who is where, because a collective takes long; `asker` is the rank that wants a report."""

    def __init__(self, asker: int | None, asked: Iterable[int]) -> None:
        self.asker = asker
        self.open = set(asked)  # who has not answered
        self.answers: dict[int, tuple[int, str]] = {}
        self.until = time.monotonic() + _ANSWER

    def beyond(self, number: int) -> set[int]:
        """The ranks that have entered that many collectives."""
        return {rank for rank, (entered, _) in self.answers.items() if entered >= number}


class _Monitor:
    """Compares calls, and finds out who is late; runs until all ranks have left."""

    def __init__(self, listener: socket.socket, secret: str, size: int, patience: float) -> None:
        self._listener = listener
        self._secret = secret
        self._size = size
        self._patience = patience
        self._streams: dict[int, Stream] = {}
        self._ranks: dict[Stream, int] = {}
        self._gone: dict[int, str] = {}
        self._rounds: dict[int, _Round] = {}
        self._inquiries: dict[int, _Inquiry] = {}
        self._told = 0  # number of the last collective that somebody has found late
        self._words = {
            "call": self._call,
            "wait": self._wait,
            "late": self._late,
            "where": self._where,
            "left": self._left,
        }
        self.stopped = False  # ranks could not connect

    def run(self) -> None:
        with self._listener:  # nobody can come any more when all are there
            self._streams = let_in(self._listener, self._secret, self._size, lambda: self.stopped)
        self._ranks = {stream: rank for rank, stream in self._streams.items()}
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            for stream in self._ranks:
                stack.enter_context(stream.socket)
                selector.register(stream.socket, selectors.EVENT_READ, stream)
            while self._streams and not self.stopped:
                for key, _ in selector.select(self._pause()):
                    if not self._serve(key.data):
                        selector.unregister(key.fileobj)
                        key.data.socket.close()
                self._look_at_the_clock()

    def _pause(self) -> float | None:
        """Seconds until something is due."""
        due = [r.until for r in self._rounds.values()] + [i.until for i in self._inquiries.values()]
        return max(min(due) - time.monotonic(), 0) if min(due, default=_NEVER) < _NEVER else None

    def _serve(self, stream: Stream) -> bool:
        """Take what has come; whether more may come."""
        messages = stream.receive()
        rank = self._ranks[stream]
        try:
            for word, *message in messages or ():
                self._words[word](rank, *message)
        except (TypeError, ValueError, KeyError):  # not one of ours
            messages = None
        if messages is None:
            del self._streams[rank]
            self._left(rank, "its process has ended")
        return messages is not None

    def _call(self, rank: int, number: int, call: list) -> None:
        now = self._rounds.setdefault(number, _Round())
        now.calls[rank] = Call(*call)
        if now.verdict:
            self._streams[rank].send("verdict", number, now.verdict)
        elif len(now.calls) == self._size:
            error = disagreement(now.calls)
            self._decide(
                number, error and f"collective {number} of the watch does not match, {error}"
            )
        elif self._gone:
            self._ask(number, None)
        if len(now.calls) == self._size:
            del self._rounds[number]

    def _wait(self, rank: int, number: int) -> None:
        now = self._rounds.get(number)
        if now and not now.verdict and now.until == _NEVER:
            now.until = time.monotonic() + self._patience

    def _late(self, rank: int, number: int) -> None:
        if number > self._told:
            self._told = number
            self._ask(number, rank)

    def _where(self, rank: int, number: int, entered: int, text: str) -> None:
        inquiry = self._inquiries.get(number)
        if inquiry and rank in inquiry.open:
            inquiry.answers[rank] = entered, text
            inquiry.open.remove(rank)
            if not inquiry.open:
                self._conclude(number)

    def _left(self, rank: int, text: str) -> None:
        if self._gone.setdefault(rank, text) is text:
            for number, now in self._rounds.items():
                if rank not in now.calls and not now.verdict:
                    self._ask(number, None)

    def _ask(self, number: int, asker: int | None) -> None:
        if number not in self._inquiries:
            self._inquiries[number] = _Inquiry(asker, self._streams.keys() - self._gone.keys())
            for stream in self._streams.values():
                stream.send("ask", number)

    def _conclude(self, number: int) -> None:
        """All have said where they are, or had time to."""
        inquiry, now = self._inquiries.pop(number), self._rounds.get(number)
        known = {rank: text for rank, (_, text) in inquiry.answers.items()} | self._gone
        texts = [
            known.get(rank, "gives no answer: stopped, or in a call that blocks Python")
            for rank in range(self._size)
        ]
        here = now.calls.keys() if now else inquiry.beyond(number) - self._gone.keys()
        late = [rank for rank in range(self._size) if rank not in here]
        who = (
            f"for rank{'s' * (len(late) > 1)} {ranges(late)}"
            if late
            else "though all ranks have come"
        )
        text = (
            f"collective {number} of the watch waits {who}, longer than {self._patience:g} s; "
            f"{by_rank(texts)}"
        )
        if now and not now.verdict:
            self._decide(number, text)
        elif inquiry.asker in self._streams:
            self._streams[inquiry.asker].send("report", text)

    def _decide(self, number: int, error: str | None) -> None:
        now = self._rounds[number]
        now.verdict, now.until = error, _NEVER
        # Rank 0 last: it may go on into a call that blocks Python, and this thread, until the
        # others come.
        for rank in sorted(now.calls.keys() & self._streams.keys(), reverse=True):
            self._streams[rank].send("verdict", number, error)

    def _look_at_the_clock(self) -> None:
        time_is = time.monotonic()
        asked = [number for number, asking in self._inquiries.items() if asking.until <= time_is]
        for number in asked:
            self._conclude(number)
        late = [number for number, now in self._rounds.items() if now.until <= time_is]
        for number in late:
            self._rounds[number].until = _NEVER
            self._ask(number, None)


def _connected(comm: MPI.Intracomm, patience: float) -> Stream:
    """A stream to the monitor, which rank 0 starts (collective)."""
    one_node = comm.allreduce(NodeMemory.of(comm).comm.size, MPI.MIN) == comm.size
    listener, place = None, None
    with together(comm):
        if comm.rank == 0:
            listener, addresses = listen(comm.size, one_node)
            place = addresses, secrets.token_hex()
    addresses, secret = comm.bcast(place)
    monitor = None
    if listener:
        monitor = _Monitor(listener, secret, comm.size, patience)
        threading.Thread(target=monitor.run, name=_MONITOR, daemon=True).start()
    try:
        with together(comm):
            return reach(addresses, secret, comm.rank)
    except HpckitError:
        if monitor:
            monitor.stopped = True
        raise


@atexit.register
def _end() -> None:
    """Who waits for a verdict gets it: MPI ends when all ranks do, but daemons stop before."""
    for line in list(_lines):
        line.close("has ended")
    for thread in threading.enumerate():
        if thread.name == _MONITOR:
            thread.join()
