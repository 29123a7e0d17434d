"""Messages between processes without MPI: lines of JSON over TCP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

import psutil

from hpckit.errors import HpckitError

_PATIENCE = 5.0  # seconds to connect to one address
Address = tuple[str, int]


class Stream:
    """Messages over a socket, each a line of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._rest = b""
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        with self._lock, contextlib.suppress(OSError):  # a line that is cut is noticed by who listens to it
            self.socket.sendall(json.dumps(message).encode() + b"\n", socket.MSG_NOSIGNAL)  # PETSc would end the job

    def receive(self) -> list[list] | None:
        """All messages that are complete; None at the end."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines] if data else None
        except ValueError:
            return None  # not one of ours

    def finish(self) -> None:
        """Send no more."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


def listen(connections: int, one_node: bool) -> tuple[socket.socket, list[Address]]:
    """A socket that accepts so many connections, and where it may be reached: from this node only, or from others."""
    server = socket.create_server(("127.0.0.1" if one_node else "", 0), backlog=connections)
    entries = [entry for card in psutil.net_if_addrs().values() for entry in card if entry.family == socket.AF_INET]
    others = [entry.address for entry in entries if not entry.address.startswith("127.")]
    return server, [(host, server.getsockname()[1]) for host in (["127.0.0.1"] if one_node else others)]


def reach(addresses: list[Address]) -> Stream:
    """A stream to whoever listens at one of these addresses; `HpckitError` where none answers."""
    for address in addresses:
        with contextlib.suppress(OSError):
            connection = socket.create_connection(address, _PATIENCE)
            connection.settimeout(None)
            return Stream(connection)
    raise HpckitError(
        f"no answer at {' or '.join(f'{host}:{port}' for host, port in addresses)}: TCP must be let through"
    )
