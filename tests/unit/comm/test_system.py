"""The machine model: interpolation, agreement among the ranks, and its file."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hpckit import native
from hpckit.comm import probe
from hpckit.comm.system import System, interpolate
from hpckit.errors import HpckitError
from hpckit.machine.node_memory import NodeMemory

TABLE = {8: [(100, 1e-6), (10_000, 4e-6)], 32: [(100, 1e-6), (10_000, 1e-6)]}


def test_measured_points_are_returned():
    assert interpolate(TABLE, 100, 8) == pytest.approx(1e-6)
    assert interpolate(TABLE, 10_000, 8) == pytest.approx(4e-6)


def test_between_points_times_are_interpolated_in_logarithms():
    assert interpolate(TABLE, 1000, 8) == pytest.approx(2e-6)
    assert interpolate(TABLE, 10_000, 16) == pytest.approx(2e-6)


def test_between_points_of_equal_times_is_their_time():
    for time in (1e-6, 3.3e-6, 7.7e-6):
        assert {
            interpolate({8: [(512, time), (4096, time)]}, nbytes, 8) for nbytes in range(512, 4096)
        } == {time}


def test_beyond_the_points():
    assert interpolate(TABLE, 1, 8) == pytest.approx(1e-6)
    assert interpolate(TABLE, 30_000, 8) == pytest.approx(12e-6)
    assert interpolate(TABLE, 10_000, 1) == pytest.approx(4e-6)
    assert interpolate(TABLE, 10_000, 4096) == pytest.approx(1e-6)


@pytest.fixture
def cache(shared_path, monkeypatch):
    """An empty cache folder, the same on all ranks, and measuring of few points that never ends
    early.
    """
    native.load("hpckit.comm.moves")  # else it would be compiled again for the empty cache
    monkeypatch.setenv("HPCKIT_CACHE", str(shared_path))
    settings = {
        "PATIENCE": 1e-9,
        "LIMIT": 1e9,
        "SIZES": (512, 4096),
        "MESSAGES": (64, 4096),
        "AREA": 1 << 19,
    }
    for name, value in settings.items():
        monkeypatch.setattr(probe, name, value)
    return shared_path


def _files(comm, cache: Path) -> list[Path]:
    comm.Barrier()
    found = sorted(cache.glob("system-*"))
    comm.Barrier()
    return found


@pytest.mark.mpi
def test_all_ranks_get_the_same_numbers(comm, cache):
    system = System.load_or_measure(comm)
    assert comm.allgather(system) == [system] * comm.size
    assert 0 < system.pack(1000, 8) < 1
    assert 0 < system.unpack(1000, 8) < 1
    steps = [
        system.message(1000),
        system.datatype(1000, 8),
        system.flag(),
        system.shared(1000, 8),
        system.direct(1000, 8),
    ]
    assert all(0 < seconds < 1 for seconds in steps) if comm.size > 1 else steps == [math.inf] * 5
    assert system.message(1000, same_node=False) == math.inf  # the tests run on one node


@pytest.mark.mpi
def test_more_bytes_take_no_less_time(comm, cache):
    system = System.load_or_measure(comm)
    for row in (8, 100, 4096):
        times = [system.pack(nbytes, row) for nbytes in (64, 1000, 50_000, 3_000_000)]
        assert times == sorted(times)


@pytest.mark.mpi
def test_measured_once(comm, cache):
    first = System.load_or_measure(comm)
    assert len(_files(comm, cache)) == 1
    assert System.load_or_measure(comm) == first


@pytest.mark.mpi
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"pack"', '"park"'),
        lambda text: json.dumps(json.loads(text) | {"machine": {}}),
        lambda text: json.dumps(json.loads(text) | {"content": {"pack": {"8": [[100, -1.0]]}}}),
    ],
)
def test_a_damaged_file_is_measured_again(comm, cache, damage):
    first = System.load_or_measure(comm)
    (path,) = _files(comm, cache)
    if comm.rank == 0:
        path.write_text(damage(path.read_text()))
    comm.Barrier()
    again = System.load_or_measure(comm)
    assert again.machine == first.machine
    assert again.tables.keys() == first.tables.keys()
    assert System.load_or_measure(comm) == again


@pytest.mark.mpi
def test_too_little_shared_memory_is_told_and_not_kept(comm, cache, monkeypatch, caplog):
    def none(*_):
        raise HpckitError("there is no room")

    monkeypatch.setattr(NodeMemory, "zeros", none)
    system = System.load_or_measure(comm)
    assert system.shared(1000, 8) == system.direct(1000, 8) == system.flag() == math.inf
    assert bool(_files(comm, cache)) == (comm.size == 1)
    if comm.size > 1:
        assert system.message(1000) < 1
        assert any("there is no room" in text for text in comm.allgather(caplog.text))


@pytest.mark.mpi
def test_a_measurement_that_ended_early_is_not_kept(comm, cache, monkeypatch):
    monkeypatch.setattr(probe, "LIMIT", 0.0)
    system = System.load_or_measure(comm)
    assert 0 < system.pack(1000, 8) < 1
    assert not _files(comm, cache)


@pytest.mark.mpi
def test_printed_as_a_table(comm, cache):
    system = System.load_or_measure(comm)
    lines = str(system).splitlines()
    assert lines[0].startswith("host")
    assert any(line.startswith("unpack") for line in lines)
    assert "inf" not in str(replace(system, tables={"pack": TABLE}))
