"""Where the time goes: `with span("halo", bytes=n): ...`, then a table over ranks, or a file.

Off, a span costs one call and one branch, about 0.2 µs. On, it costs about a microsecond.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpckit.errors import together, writing
from hpckit.files import replacing

if TYPE_CHECKING:
    from mpi4py import MPI


class _Event(NamedTuple):
    name: str
    begin: int  # ns since the clocks were aligned
    duration: int  # ns
    bytes: int
    thread: int


class _Off:
    """The span of a trace that is off: one object for all."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Span:
    __slots__ = ("_begin", "_bytes", "_name")

    def __init__(self, name: str, bytes: int) -> None:
        self._name = name
        self._bytes = bytes

    def __enter__(self) -> None:
        # Here already, so that the table lists outer spans before inner ones.
        _totals.setdefault(self._name, [0, 0, 0])
        self._begin = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        duration = time.perf_counter_ns() - self._begin
        with _lock:
            total = _totals.setdefault(self._name, [0, 0, 0])
            total[0] += 1
            total[1] += duration
            total[2] += self._bytes
            if _keep:
                _events.append(
                    _Event(
                        self._name,
                        self._begin - _zero,
                        duration,
                        self._bytes,
                        threading.get_ident(),
                    )
                )


_OFF = _Off()
_lock = threading.Lock()
_on = False
_zero = 0
_keep = False
_events: list[_Event] = []
_totals: dict[str, list[int]] = {}  # name to calls, ns, bytes


def span(name: str, bytes: int = 0) -> _Span | _Off:
    """Time a block of code under `name`; spans may nest, and cost next to nothing until `enable`.

    ::

        trace.enable(comm)
        with span("assemble", bytes=matrix.nbytes):
            assemble(matrix)
        print(trace.table(comm))

    bytes : what the block moves, for the rate in the table
    """
    return _Span(name, bytes) if _on else _OFF


def enable(comm: MPI.Intracomm, events: bool = True) -> None:
    """Start to record, from a barrier on, and forget what was recorded (collective).

    events : keep every span for `save`, about 200 bytes each; else only the sums for `table`.
    """
    global _on, _zero, _keep
    _events.clear()
    _totals.clear()
    _keep = events
    comm.Barrier()
    _zero, _on = time.perf_counter_ns(), True


def disable() -> None:
    """Stop to record; what was recorded stays for `table` and `save`."""
    global _on
    _on = False


def seconds(name: str) -> float:
    """All that this rank spent in spans of that name; 0 where there was none."""
    return _totals.get(name, [0, 0, 0])[1] * 1e-9


def table(comm: MPI.Intracomm) -> str:
    """Per name: calls, seconds over the ranks, GB/s of the slowest (collective)."""
    totals = comm.gather(_totals)
    if totals is None:
        return ""
    names = list(dict.fromkeys(name for each in totals for name in each))  # in order of appearance
    return "\n".join(
        [_HEADER, *(_line(name, [each.get(name, [0, 0, 0]) for each in totals]) for name in names)]
    )


def save(comm: MPI.Intracomm, path: str | os.PathLike[str]) -> None:
    """Write all spans for Perfetto (ui.perfetto.dev), one track per rank (collective).

    Rank 0 writes it, whole or not at all. Raises `HpckitError` on all ranks where it cannot.
    """
    everything = comm.gather(_chrome(comm.rank))
    with together(comm):
        if everything is not None:
            events = [event for rank in everything for event in rank]
            with writing(path), replacing(path) as draft:
                draft.write_text(json.dumps({"traceEvents": events}) + "\n")


_HEADER = f"{'span':<20} {'calls':>8} {'min s':>10} {'mean s':>10} {'max s':>10} {'GB/s':>8}"


def _line(name: str, ranks: list[list[int]]) -> str:
    calls, nanoseconds, moved = np.array(ranks).T
    seconds = nanoseconds * 1e-9
    slowest = seconds.argmax()
    rate = (
        f"{moved[slowest] / nanoseconds[slowest]:8.2f}"
        if moved[slowest] and nanoseconds[slowest]
        else f"{'':8}"
    )
    return (
        f"{name:<20} {calls.max():8} {seconds.min():10.4f} {seconds.mean():10.4f} "
        f"{seconds.max():10.4f} {rate}"
    )


def _chrome(rank: int) -> list[dict]:
    """This rank's events as Chrome wants them: microseconds, one process per rank."""
    threads = {ident: n for n, ident in enumerate(dict.fromkeys(e.thread for e in _events))}
    label = {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}}
    order = {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}}
    return [label, order] + [
        {
            "name": e.name,
            "ph": "X",
            "ts": e.begin / 1000,
            "dur": e.duration / 1000,
            "pid": rank,
            "tid": threads[e.thread],
            "args": {"bytes": e.bytes},
        }
        for e in _events
    ]
