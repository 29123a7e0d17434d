"""Streams between those who share a secret, in a crowd of strangers."""

import contextlib
import hashlib
import hmac
import json
import os
import socket
import threading

import pytest

from hpckit.errors import HpckitError
from hpckit.watch import stream
from hpckit.watch.stream import Stream, let_in, listen, reach

SECRET = "open sesame"


class Door:
    """Lets `size` in, in a thread of its own."""

    def __init__(self, size: int, sockets: contextlib.ExitStack) -> None:
        self.server, self.addresses = listen(size, one_node=True)
        self.stopped, self.inside = False, None
        self._sockets = sockets
        self.thread = threading.Thread(target=self._run, args=[size], daemon=True)
        self.thread.start()

    def _run(self, size: int) -> None:
        with self.server:
            self.inside = let_in(self.server, SECRET, size, lambda: self.stopped)

    def stranger(self, *messages: bytes) -> socket.socket:
        connection = self._sockets.enter_context(socket.create_connection(self.addresses[0], 10))
        for message in messages:
            with contextlib.suppress(OSError):  # shown out already
                connection.sendall(message)
        return connection

    def rank(self, number: int) -> Stream:
        found = reach(self.addresses, SECRET, number)
        self._sockets.enter_context(found.socket)
        return found

    def close(self) -> dict[int, Stream]:
        self.thread.join(30)
        assert self.inside is not None
        for inside in self.inside.values():
            self._sockets.enter_context(inside.socket)
        return self.inside


@pytest.fixture
def door():
    with contextlib.ExitStack() as sockets:
        yield lambda size: Door(size, sockets)


def echoes(door: Door, *streams: Stream) -> None:
    """What one side sends, the other receives."""
    inside = door.close()
    assert sorted(inside) == list(range(len(streams)))
    for number, each in enumerate(streams):
        each.send("call", number, ["a", None])
        assert inside[number].receive() == [["call", number, ["a", None]]]
        inside[number].send("verdict", number, None)
        assert each.receive() == [["verdict", number, None]]


def ended(connection: socket.socket) -> bool:
    """Nothing more comes from there."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_only_this_node_is_listened_to():
    server, addresses = listen(1, one_node=True)
    with server:
        assert {host for host, _ in addresses} == {"127.0.0.1"} == {server.getsockname()[0]}


GARBAGE = [
    b"",
    b"\0" * 200,
    b"\xff" * 105 + b"\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"[" * 100_000,
    json.dumps([SECRET, 0]).encode() + b"\n",
    b"0000000000" + b"a" * 32 + b"f" * 64,
    b"0000000001" + SECRET.encode() * 9,
    b"\x80\x04\x95" + os.urandom(200),
    os.urandom(3),
]


def test_strangers_say_anything_and_ranks_come_in(door, monkeypatch):
    opened = door(3)
    monkeypatch.setattr(stream, "_CROWD", 8)
    for message in GARBAGE * 3:
        opened.stranger(message)
    echoes(opened, *[opened.rank(number) for number in range(3)])
    with pytest.raises(OSError):  # nobody can come any more
        socket.create_connection(opened.addresses[0], 1)


def test_a_stranger_who_says_little_must_go(door, monkeypatch):
    monkeypatch.setattr(stream, "_PATIENCE", 0.3)
    opened = door(1)
    slow = opened.stranger(b"0")
    assert len(slow.recv(100)) == 32  # the challenge
    assert ended(slow)
    monkeypatch.undo()
    echoes(opened, opened.rank(0))


def test_numbers_that_do_not_exist_or_are_taken(door):
    opened = door(2)
    first = opened.rank(0)
    for number in (0, 2, 10**9):
        assert opened.rank(number).receive() is None
    echoes(opened, first, opened.rank(1))


def test_an_answer_counts_once(door):
    """What was overheard lets nobody in: the next challenge is another."""
    opened = door(1)
    connection = opened.stranger()
    name, nonce = b"0000000000", b"a" * 32
    words = b" ".join([connection.recv(32), name, nonce])
    answer = name + nonce + hmac.new(SECRET.encode(), words, hashlib.sha256).hexdigest().encode()
    other = opened.stranger(answer)
    assert len(other.recv(32)) == 32
    assert ended(other)
    connection.sendall(answer)
    assert len(connection.recv(64)) == 64
    assert list(opened.close()) == [0]


@pytest.mark.parametrize("says", [b"", b"x", b"x" * 32, b"x" * 4096])
def test_another_program_at_that_address(says, monkeypatch):
    monkeypatch.setattr(stream, "_PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()[:2]

        def other() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(says)

        held: list[socket.socket] = []
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        with pytest.raises(HpckitError, match="TCP must be let through"):
            reach([address], SECRET, 0)
        server.shutdown(socket.SHUT_RDWR)  # ends its `accept`
        thread.join()
        for connection in held:
            connection.close()


def test_the_door_is_shut_when_told_so(door):
    opened = door(2)
    stranger = opened.stranger()
    assert len(stranger.recv(32)) == 32
    opened.stopped = True
    assert opened.close() == {}
    assert ended(stranger)


@pytest.mark.parametrize("line", [b"{", b"[" * 200_000 + b"\n", b"\xff\n", b"1" * 10_000 + b"\n"])
def test_lines_that_are_none_of_ours_end_a_stream(line, monkeypatch):
    monkeypatch.setattr(stream, "_LONGEST", 1000)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        listener = Stream(ours)
        thread = threading.Thread(
            target=lambda: (theirs.sendall(line + b"x" * 1001), theirs.close()), daemon=True
        )
        thread.start()
        received = 0
        while (messages := listener.receive()) is not None:
            received += len(messages)
        assert not received
        ours.close()
        thread.join()
