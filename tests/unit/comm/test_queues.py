"""Queues, shared and by messages: order, room, any pairs, nothing left behind."""

import time
from pathlib import Path

import numpy as np
import pytest

from hpckit import native
from hpckit.comm import queues as opening
from hpckit.comm.message_queue import MessageReceiver
from hpckit.comm.queues import open_queues
from hpckit.comm.shared_queue import SharedReceiver, SharedSender
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine.node_memory import NodeMemory

pytestmark = pytest.mark.mpi
WAYS = ("shared", "messages")
several = pytest.mark.mpi(min_size=2)


def wait(alarm, condition):
    alarm.wait(condition, 60, lambda: "the other end")


def send(alarm, sender, numbers, pause=lambda: None):
    for number in numbers:
        wait(alarm, lambda: sender.room() is not None)
        sender.room().view(np.int64)[:] = number
        sender.send()
        pause()


def receive(alarm, receiver, count, pause=lambda: None):
    """The first numbers of the messages, which are all alike inside."""
    found = []
    for _ in range(count):
        wait(alarm, lambda: receiver.peek() is not None)
        message = receiver.peek().view(np.int64)
        assert np.all(message == message[0])
        found.append(int(message[0]))
        receiver.drop()
        pause()
    return found


@several
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize("words", [1, 8, 9, 5000])
def test_messages_come_in_order(comm, alarm, way, slots, words):
    last = comm.size - 1
    with open_queues(comm, [(last, 0)], 8 * words, slots, way) as queues:
        if comm.rank == last:
            assert set(queues.senders) == {0} and not queues.receivers
            send(alarm, queues.senders[0], range(40))
        elif comm.rank == 0:
            assert receive(alarm, queues.receivers[last], 40) == list(range(40))
        else:
            assert not queues.senders and not queues.receivers


@pytest.mark.parametrize("slots", [1, 3])
def test_a_shared_queue_is_full_and_empty(comm, slots):
    """Both ends in one process."""
    memory = NodeMemory.of(comm).zeros(10000, np.uint8)
    sender, receiver = (end(memory, 100, slots) for end in (SharedSender, SharedReceiver))
    for turn in range(5):
        assert receiver.peek() is None and receiver.waiting == 0
        for i in range(slots):
            assert sender.room() is sender.room()
            sender.room()[:] = 10 * turn + i
            sender.send()
            assert receiver.waiting == i + 1
        assert sender.room() is None
        with pytest.raises(HpckitError, match="full"):
            sender.send()
        for i in range(slots):
            assert np.all(receiver.peek() == 10 * turn + i)
            receiver.drop()
            assert sender.room() is not None
        with pytest.raises(HpckitError, match="empty"):
            receiver.drop()


@several
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_full_queue_is_noticed(comm, alarm, way, slots):
    """Of messages, those that were received but not dropped count too."""
    last = comm.size - 1
    held = slots if way == "shared" else 2 * slots
    with open_queues(comm, [(last, 0)], 8, slots, way) as queues:
        if comm.rank == last:
            send(alarm, queues.senders[0], range(held))
            assert queues.senders[0].room() is None
            with pytest.raises(HpckitError, match="full"):
                queues.senders[0].send()
        comm.Barrier()
        if comm.rank == 0:
            receiver = queues.receivers[last]
            wait(alarm, lambda: receiver.waiting == slots)
            assert receive(alarm, receiver, held) == list(range(held))
            assert receiver.peek() is None and receiver.waiting == 0
            with pytest.raises(HpckitError, match="empty"):
                receiver.drop()
        elif comm.rank == last:
            wait(alarm, lambda: queues.senders[0].room() is not None)


@several
@pytest.mark.parametrize("way", WAYS)
def test_messages_begin_on_cache_lines_and_stay_while_they_are_read(comm, alarm, way):
    last = comm.size - 1
    with open_queues(comm, [(last, 0)], 24, 3, way) as queues:
        if comm.rank == last:
            for number in range(3):
                assert native.address(queues.senders[0].room()) % 64 == 0
                send(alarm, queues.senders[0], [number])
        elif comm.rank == 0:
            receiver = queues.receivers[last]
            wait(alarm, lambda: receiver.waiting == 3)
            message = receiver.peek()
            assert native.address(message) % 64 == 0 and message.shape == (24,)
            assert message.dtype == np.uint8 and receiver.peek() is message
            assert receive(alarm, receiver, 3) == [0, 1, 2]


@several
@pytest.mark.parametrize("way", ["auto", *WAYS])
def test_all_pairs_at_once(comm, alarm, way):
    ranks = range(comm.size)
    pairs = [(a, b) for a in ranks for b in ranks if a != b]
    with open_queues(comm, pairs, 16, 2, way) as queues:
        todo = {peer: list(range(30)) for peer in queues.senders}
        found = {peer: [] for peer in queues.receivers}

        def turn():
            for peer, sender in queues.senders.items():
                if todo[peer] and (room := sender.room()) is not None:
                    room.view(np.int64)[:] = comm.rank, todo[peer].pop(0)
                    sender.send()
            for peer, receiver in queues.receivers.items():
                if (message := receiver.peek()) is not None:
                    assert message.view(np.int64)[0] == peer
                    found[peer].append(int(message.view(np.int64)[1]))
                    receiver.drop()
            return not any(todo.values()) and all(len(each) == 30 for each in found.values())

        wait(alarm, turn)
        assert all(each == list(range(30)) for each in found.values()) and len(found) > 0


@several
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", [0, 1, 5])
def test_what_nobody_reads_is_lost_when_queues_close(comm, alarm, way, read):
    last = comm.size - 1
    with open_queues(comm, [(last, 0), (0, last)], 8, 4, way) as queues:
        if comm.rank == last:
            send(alarm, queues.senders[0], range(6 if way == "messages" else 4))
        elif comm.rank == 0:
            receive(alarm, queues.receivers[last], min(read, 4))
    assert not queues.senders and not queues.receivers


@several
@pytest.mark.patience(900)
@pytest.mark.parametrize("way", WAYS)
def test_many_messages_with_random_pauses(comm, alarm, way):
    """Both ends are now the faster, now the slower one; what is read is exactly what was sent."""
    last = comm.size - 1
    count = 100_000 if comm.size == 2 else 5000
    rng = np.random.default_rng(comm.rank)
    pauses = iter(rng.choice([0, 0, 1e-4, 1e-3], size=count // 200 + 1))
    done = 0

    def pause():
        nonlocal done
        done += 1
        if done % 200 == 0:
            time.sleep(next(pauses))

    with open_queues(comm, [(last, 0)], 40, 8, way) as queues:
        if comm.rank == last:
            send(alarm, queues.senders[0], range(count), pause)
        elif comm.rank == 0:
            assert receive(alarm, queues.receivers[last], count, pause) == list(range(count))


@pytest.mark.patience(900)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_queues(comm, way):
    """Nor is memory of a queue that lives longer than others."""
    pairs = [(rank, (rank + 1) % comm.size) for rank in range(comm.size) if comm.size > 1]

    def left():
        maps = Path("/proc/self/maps").read_text().count("memfd:hpckit-shared")
        return maps, len(list(Path("/proc/self/fd").iterdir()))

    open_queues(comm, pairs, 64, 2, way).close()
    before = left()
    for _ in range(200 if comm.size < 3 else 20):
        open_queues(comm, pairs, 64, 2, way).close()
    assert left() == before
    first, second = (open_queues(comm, pairs, 64, 2, way) for _ in range(2))
    first.close()
    second.close()
    del first, second
    assert left() == before


@several
@pytest.mark.parametrize("way", WAYS)
def test_queues_are_closed_in_any_order(comm, alarm, way):
    last = comm.size - 1
    opened = [open_queues(comm, [(last, 0)], 8, 3, way) for _ in range(4)]
    for number, queues in enumerate(opened):
        if comm.rank == last:
            send(alarm, queues.senders[0], [number, number + 100])
    for number in (2, 0, 3, 1):
        if comm.rank == 0:
            assert receive(alarm, opened[number].receivers[last], 1) == [number]
        opened[number].close()


@pytest.mark.mpi(min_size=3)
def test_auto_takes_messages_between_nodes(comm, alarm, monkeypatch):
    """The last rank is imagined to be on a node of its own."""
    last = comm.size - 1
    part = comm.Split(int(comm.rank == last), comm.rank)
    memory = NodeMemory(part)
    memory.ranks = [last] if comm.rank == last else list(range(last))
    monkeypatch.setattr(opening.NodeMemory, "of", lambda comm: memory)
    with open_queues(comm, [(1, 0), (last, 0)], 8, 3) as queues:
        if comm.rank == 0:
            assert isinstance(queues.receivers[1], SharedReceiver)
            assert isinstance(queues.receivers[last], MessageReceiver)
            for peer in (1, last):
                assert receive(alarm, queues.receivers[peer], 10) == [*range(10)]
        elif comm.rank in (1, last):
            send(alarm, queues.senders[0], range(10))
    with pytest.raises(ConfigError, match="different nodes"):
        open_queues(comm, [(last, 0)], 8, 3, "shared")
    part.Free()


@several
def test_without_shared_memory(comm, alarm, monkeypatch, caplog):
    def none(*_):
        raise HpckitError("there is none")

    monkeypatch.setattr(NodeMemory, "zeros", none)
    with open_queues(comm, [(1, 0)], 8, 3) as queues:
        if comm.rank == 0:
            assert receive(alarm, queues.receivers[1], 5) == [*range(5)]
            assert "there is none" in caplog.text
        elif comm.rank == 1:
            send(alarm, queues.senders[0], range(5))
    with pytest.raises(HpckitError, match="there is none"):
        open_queues(comm, [(1, 0)], 8, 3, "shared")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pairs": [(0, 0)]}, r"\(0, 0\)"),
        ({"pairs": [(0, 99)]}, r"\(0, 99\)"),
        ({"pairs": [(-1, 0)]}, r"\(-1, 0\)"),
        ({"nbytes": 0}, "nbytes=0"),
        ({"slots": 0}, "slots=0"),
        ({"way": "pigeon"}, "pigeon"),
    ],
)
def test_what_cannot_be(comm, changed, words):
    with pytest.raises(ConfigError, match=words):
        open_queues(comm, **({"pairs": [], "nbytes": 8, "slots": 2} | changed))


@several
def test_pairs_are_the_same_everywhere_and_named_once(comm):
    with pytest.raises(ConfigError, match="twice"):
        open_queues(comm, [(0, 1), (0, 1)], 8, 2)
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        open_queues(comm, [(0, 1)], 8 + comm.rank, 2)
