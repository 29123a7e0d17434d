"""Messages there and back, and clocks that differ."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from hpckit.machine import pingpong
from hpckit.machine.pingpong import clock_offset, one_way

BOOT = "/proc/sys/kernel/random/boot_id"


@pytest.mark.mpi(min_size=2)
def test_a_message_takes_time(comm):
    if comm.rank < 2:
        seconds = one_way(comm, 1 - comm.rank, 1000, first=comm.rank == 0, repeats=5)
        assert 0 < seconds < 60
    comm.Barrier()


def test_one_machine_has_one_clock(comm):
    assert clock_offset(comm) == 0.0


def test_the_offset_of_another_machine_is_found(comm, monkeypatch):
    """Pairs of ranks pretend to be machines whose clocks are an hour apart each."""
    machine = comm.rank // 2

    class Boot:
        def __init__(self, path):
            assert path == BOOT

        def exists(self):
            return True

        def read_text(self):
            return f"machine {machine}"

    begun = time.monotonic()
    monkeypatch.setattr(pingpong, "Path", Boot)
    monkeypatch.setattr(
        pingpong,
        "time",
        SimpleNamespace(
            monotonic=lambda: time.monotonic() + 3600 * machine, perf_counter=time.perf_counter
        ),
    )
    offset = clock_offset(comm)
    off = abs(offset + 3600 * machine)
    # At most half of the trip, which is shorter than all of this.
    assert off <= time.monotonic() - begun
    assert machine or offset == 0.0
