"""Samples through a queue from rank 1 to rank 0: shared memory against windows of messages.

The sender copies each sample in, or fills it in place, as a solver would. The receiver reads it
where it lies (which costs it nothing here), or copies it into a row of a buffer, as training does:
the copy is the same for all queues. CPU time counts, since ranks that wait sleep; a sample of it is
the mean over `_COUNT` messages, and all ways take turns.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks._harness import Report, Times, print_table
from hpckit.comm.alarm import Alarm
from hpckit.comm.queues import Queues, open_queues

_COUNT = 2000  # messages in a row
_ROWS = 6000  # of the receiver's buffer
_SIZES = (16384, 4096)  # bytes of a sample
_WINDOWS = (8, 32, 64)  # messages on their way, of which the best counts
_SLOTS = 64


class _Way(NamedTuple):
    queues: Queues
    written: bool  # in place, not copied in
    read: bool  # in place, not copied into a row


class _Cost(NamedTuple):
    """(repeats,) seconds per message."""

    receiver: Times
    both: Times
    wall: Times


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on two ranks)."""
    alarm = Alarm(comm)
    for nbytes in _SIZES:
        costs = _measure(comm, alarm, nbytes, 5 if quick else 60)
        memcpy = comm.bcast(_memcpy(nbytes))
        if comm.rank == 0:
            _tell(report, nbytes, costs, memcpy)
    alarm.close()


def _measure(comm: Any, alarm: Alarm, nbytes: int, repeats: int) -> dict[str, _Cost]:
    def opened(slots: int, way: Any) -> Queues:
        return open_queues(comm, [(1, 0)], nbytes, slots, way)

    shared = opened(_SLOTS, "shared")
    windows = {n: opened(n, "messages") for n in _WINDOWS}
    ways = {
        f"{name}, {'read' if read else 'copied out'}": _Way(queues, written, read)
        for read in (True, False)
        for name, queues, written in (
            ("shared, in place", shared, True),
            ("shared, copied in", shared, False),
            *((f"messages, {n}", queues, False) for n, queues in windows.items()),
        )
    }
    rows = np.ones((_ROWS if comm.rank == 0 else 1, nbytes), np.uint8)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(_turn(comm, alarm, way, rows))
    for queues in (shared, *windows.values()):
        queues.close()
    return {name: _Cost(*map(Times, np.array(each)[1:].T)) for name, each in found.items()}


def _turn(comm: Any, alarm: Alarm, way: _Way, rows: np.ndarray) -> tuple[float, float, float]:
    """Seconds per message: the receiver's and both ranks' CPU time, and wall time."""
    comm.Barrier()
    begin, cpu = time.perf_counter(), time.process_time()
    if comm.rank == 0:
        _receive(alarm, way.queues.receivers[1], rows, way.read)
    else:
        _send(alarm, way.queues.senders[0], rows[0], way.written)
    spent = comm.allgather((time.process_time() - cpu, time.perf_counter() - begin))
    (receiver, wall), (sender, _) = spent
    return receiver / _COUNT, (receiver + sender) / _COUNT, wall / _COUNT


def _send(alarm: Alarm, sender: Any, sample: np.ndarray, written: bool) -> None:
    def room() -> bool:
        return sender.room() is not None

    for _ in range(_COUNT):
        message = sender.room()
        if message is None:
            alarm.wait(room, 60.0, lambda: "rank 0")
            message = sender.room()
        if written:
            message.fill(1)
        else:
            np.copyto(message, sample)
        sender.send()


def _receive(alarm: Alarm, receiver: Any, rows: np.ndarray, read: bool) -> None:
    def come() -> bool:
        return receiver.peek() is not None

    for number in range(_COUNT):
        message = receiver.peek()
        if message is None:
            alarm.wait(come, 60.0, lambda: "rank 1")
            message = receiver.peek()
        if not read:
            np.copyto(rows[number % len(rows)], message)
        receiver.drop()


def _memcpy(nbytes: int) -> float:
    """Seconds of one copy into such a row."""
    rows, slots = np.ones((_ROWS, nbytes), np.uint8), np.ones((_SLOTS, nbytes), np.uint8)

    def copies() -> None:
        for number in range(_COUNT):
            np.copyto(rows[number], slots[number % _SLOTS])

    return min(_timed(copies) for _ in range(20)) / _COUNT


def _timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _tell(report: Report, nbytes: int, costs: dict[str, _Cost], memcpy: float) -> None:
    rows = [
        (
            name,
            1e6 * cost.receiver.best,
            1e6 * cost.both.best,
            1e-3 / cost.wall.best,
            nbytes / cost.wall.best / 1e9,
            100 * memcpy / cost.wall.best,
        )
        for name, cost in costs.items()
    ]
    head = ("queue", "us, receiver", "us, both", "1000/s", "GB/s", "% of memcpy")
    print_table(head, rows, f"samples of {nbytes} bytes: CPU time and rate")
    for read, kind in itertools.product(("read", "copied out"), ("receiver", "both")):
        times = {name: getattr(cost, kind) for name, cost in costs.items() if name.endswith(read)}
        best = min((times[name] for name in times if "messages" in name), key=lambda t: t.best)
        target = 3.0 if nbytes == _SIZES[0] and read == "read" else None
        for name in (name for name in times if "shared" in name):
            case = f"{nbytes} bytes, CPU time of {kind}, {name}"
            report.add(case, "messages, best", *times[name].ratio(best), target)
    wall = costs["shared, in place, copied out"].wall
    if nbytes == _SIZES[0]:
        rates = nbytes / wall.samples / 1e9
        rate = rates.max(), rates.min(), rates.max()
        report.add(f"{nbytes} bytes, GB/s in place", "1 GB/s", *rate, 1.0, memcpy / wall.best)
