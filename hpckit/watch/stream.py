"""Messages between processes without MPI: lines of JSON over TCP, between those who share a secret.

Anybody may connect while somebody listens. So nothing that a stranger sends is parsed: who listens
sends a challenge, and the answer, of fixed length, holds a digest of it and of the secret, which
never travels itself. Who connects asks for the same, for somebody else may listen at that address.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from hpckit.errors import HpckitError

_PATIENCE = 5.0  # seconds to connect to one address, and to be let in
_TRIES = 3  # to be let in at one address: in a crowd somebody may be shown out too early
_DOOR = 60.0  # seconds in which all must come
_CROWD = 256  # who may stand in the door
_LONGEST = 1 << 20  # bytes of a message
_NONCE, _DIGEST, _NAME = 32, 64, 10  # characters of a challenge, of an answer, of a number
_ANSWER = _NAME + _NONCE + _DIGEST
Address = tuple[str, int]


class Stream:
    """Messages over a socket, each a line of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._rest = b""
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):  # who listens notices a line that is cut
            self.socket.sendall(line, socket.MSG_NOSIGNAL)  # at a signal PETSc would end the job

    def receive(self) -> list[list] | None:
        """All messages that are complete; None at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LONGEST:
            return None
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return None  # not one of ours

    def finish(self) -> None:
        """Send no more."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


class _Guest:
    """A connection that has not shown yet that it knows the secret: nothing blocks or is parsed."""

    def __init__(self, connection: socket.socket, secret: str) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.until = time.monotonic() + _PATIENCE
        self.number: int | None = None  # known once it has shown that
        self.gone = False
        self._secret = secret
        self._nonce = secrets.token_hex(_NONCE // 2).encode()
        self._said = b""
        self._send(self._nonce)

    def hear(self) -> None:
        """Take what has come, of the length that it must have."""
        try:
            data = self.socket.recv(_ANSWER - len(self._said))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._said += data
        if not data:
            self.gone = True
        elif len(self._said) == _ANSWER:
            name, nonce = self._said[:_NAME], self._said[_NAME:-_DIGEST]
            expected = _digest(self._secret, self._nonce, name, nonce)
            self.gone = not hmac.compare_digest(self._said[-_DIGEST:], expected)
            if not self.gone:
                self.number = int(name)
                self._send(_digest(self._secret, nonce, b"welcome"))

    def _send(self, data: bytes) -> None:
        try:
            self.socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            self.gone = True


def let_in(
    server: socket.socket, secret: str, size: int, stopped: Callable[[], bool]
) -> dict[int, Stream]:
    """Streams to the numbers below `size`, and nobody else; to fewer, if some come too late.

    Who does not show soon that it knows the secret must go; in a crowd, who came first.
    """
    inside: dict[int, Stream] = {}
    guests: dict[_Guest, None] = {}  # who came first, first
    until = time.monotonic() + _DOOR
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)

        def leaves(guest: _Guest) -> None:
            del guests[guest]
            selector.unregister(guest.socket)
            number = size if guest.gone or guest.number is None else guest.number
            if number < size and number not in inside:
                guest.socket.setblocking(True)
                inside[number] = Stream(guest.socket)
            else:
                guest.socket.close()

        while len(inside) < size and time.monotonic() < until and not stopped():
            for key, _ in selector.select(0.1):
                if key.data:
                    key.data.hear()
                    if key.data.gone or key.data.number is not None:
                        leaves(key.data)
                elif guest := _coming(server, secret):
                    guests[guest] = None
                    selector.register(guest.socket, selectors.EVENT_READ, guest)
            while guests and (
                len(guests) > size + _CROWD or next(iter(guests)).until < time.monotonic()
            ):
                leaves(next(iter(guests)))
    for guest in guests:
        guest.socket.close()
    return inside


def _coming(server: socket.socket, secret: str) -> _Guest | None:
    try:
        return _Guest(server.accept()[0], secret)
    except OSError:  # gone again, or too many files are open
        time.sleep(0.01)
        return None


def listen(connections: int, one_node: bool) -> tuple[socket.socket, list[Address]]:
    """A socket for so many connections, and its addresses: for this node only, or for others."""
    server = socket.create_server(
        ("127.0.0.1" if one_node else "", 0), backlog=connections + _CROWD
    )
    server.setblocking(False)  # who connects may have gone when it is accepted
    entries = [
        entry
        for card in psutil.net_if_addrs().values()
        for entry in card
        if entry.family == socket.AF_INET
    ]
    others = [entry.address for entry in entries if not entry.address.startswith("127.")]
    return server, [
        (host, server.getsockname()[1]) for host in (["127.0.0.1"] if one_node else others)
    ]


def reach(addresses: list[Address], secret: str, number: int) -> Stream:
    """A stream to who listens at one of these and knows the secret, else `HpckitError`."""
    for address in [address for _ in range(_TRIES) for address in addresses]:
        with contextlib.suppress(OSError):
            connection = socket.create_connection(address, _PATIENCE)
            with contextlib.ExitStack() as stack:
                stack.callback(connection.close)
                if _introduced(connection, secret, number):
                    stack.pop_all()
                    connection.settimeout(None)
                    return Stream(connection)
    raise HpckitError(
        f"no answer at {' or '.join(f'{host}:{port}' for host, port in addresses)}: TCP must be "
        "let through"
    )


def _introduced(connection: socket.socket, secret: str, number: int) -> bool:
    """Whether both sides know the secret."""
    until = time.monotonic() + _PATIENCE
    challenge = _exactly(connection, _NONCE, until)
    name, nonce = f"{number:0{_NAME}}".encode(), secrets.token_hex(_NONCE // 2).encode()
    connection.sendall(name + nonce + _digest(secret, challenge, name, nonce), socket.MSG_NOSIGNAL)
    return hmac.compare_digest(
        _exactly(connection, _DIGEST, until), _digest(secret, nonce, b"welcome")
    )


def _exactly(connection: socket.socket, length: int, until: float) -> bytes:
    data = b""
    while len(data) < length:
        connection.settimeout(max(until - time.monotonic(), 1e-3))
        data += (more := connection.recv(length - len(data)))
        if not more:
            raise ConnectionError("it has gone")
    return data


def _digest(secret: str, *words: bytes) -> bytes:
    return hmac.new(secret.encode(), b" ".join(words), hashlib.sha256).hexdigest().encode()
