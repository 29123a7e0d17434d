import json
import threading
import time

import pytest

from hpckit import trace
from hpckit.errors import HpckitError

pytestmark = pytest.mark.mpi


@pytest.fixture
def recording(comm):
    trace.enable(comm)
    yield comm
    trace.disable()


def test_off_it_records_nothing_and_makes_nothing(comm):
    trace.enable(comm)
    trace.disable()
    assert trace.span("a") is trace.span("b", bytes=3)
    with trace.span("a"):
        pass
    assert trace._events == []


def test_the_table_is_over_ranks(recording):
    comm = recording
    for _ in range(3):
        with trace.span("outer"), trace.span("inner", bytes=10**9):
            time.sleep(0.002 * (comm.rank + 1))
    text = trace.table(comm)
    if comm.rank > 0:
        assert text == ""
        return
    header, outer, inner = text.splitlines()
    assert header.split() == ["span", "calls", "min", "s", "mean", "s", "max", "s", "GB/s"]
    name, calls, least, mean, most = outer.split()
    assert (name, calls) == ("outer", "3")
    assert 0.006 <= float(least) <= float(mean) <= float(most)
    assert float(most) >= 0.006 * comm.size
    assert 0 < float(inner.split()[-1]) <= 3e9 / (0.006 * comm.size) / 1e9 + 0.01


def test_a_span_that_some_ranks_lack_still_has_its_line(recording):
    comm = recording
    if comm.rank == comm.size - 1:
        with trace.span("rare"):
            pass
    assert ("rare" in trace.table(comm)) == (comm.rank == 0)


def test_an_exception_ends_its_span(recording):
    with pytest.raises(KeyError), trace.span("fails"):
        raise KeyError
    assert [event.name for event in trace._events] == ["fails"]


def test_perfetto_gets_one_track_per_rank(recording, shared_path):
    comm = recording
    with trace.span("outer", bytes=7), trace.span("inner"):
        other = threading.Thread(target=lambda: trace.span("thread").__enter__())
        other.start()
        other.join()
    trace.save(comm, shared_path / "trace.json")
    comm.Barrier()
    assert [p.name for p in shared_path.iterdir()] == ["trace.json"]
    events = json.loads((shared_path / "trace.json").read_text())["traceEvents"]
    assert {e["pid"] for e in events} == set(range(comm.size))
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == [
        f"rank {r}" for r in range(comm.size)
    ]
    for rank in range(comm.size):
        spans = {e["name"]: e for e in events if e["pid"] == rank and e["ph"] == "X"}
        assert set(spans) == {"outer", "inner"}
        inner, outer = spans["inner"], spans["outer"]
        assert outer["ts"] <= inner["ts"]
        assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
        assert outer["args"]["bytes"] == 7


def test_clocks_start_together(comm):
    """All first spans begin within what the slowest rank takes from the start to its span's end."""
    entered = time.perf_counter_ns()
    trace.enable(comm)
    with trace.span("first"):
        pass
    trace.disable()
    spent = max(comm.allgather(time.perf_counter_ns() - entered))
    assert all(0 <= begin <= spent for begin in comm.allgather(trace._events[0].begin))


def test_a_trace_that_cannot_be_written_fails_on_all_ranks(recording, shared_path):
    with pytest.raises(HpckitError, match="No such file or directory"):
        trace.save(recording, shared_path / "missing" / "trace.json")


def test_off_a_span_is_nearly_free(comm):
    trace.disable()
    best = min(_microseconds_per_span() for _ in range(20))
    assert best < 5  # 0.1 on a quiet machine


def _microseconds_per_span():
    begin = time.perf_counter()
    for _ in range(1000):
        with trace.span("x", 8):
            pass
    return (time.perf_counter() - begin) * 1e3
