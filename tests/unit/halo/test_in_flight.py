"""What is between `start` and `wait` lives until complete, in any order, whoever forgets it."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from hpckit.comm.grid import Grid
from hpckit.errors import HpckitError
from hpckit.halo import METHODS, Halo
from hpckit.halo.adrift import adrift, land
from hpckit.halo.neighbor import _graphs
from hpckit.machine import spin

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
FIXED = [method for method in METHODS if method != "auto"]


def ring(comm, method: str, n: int = 8) -> tuple[Grid, np.ndarray]:
    """A periodic line of blocks whose cells hold their rank, in shared memory if need be."""
    grid = Grid(comm, (n * comm.size, 6), periodic=True, process_shape=(comm.size, 1))
    return grid, ranked(grid, method)


def ranked(grid: Grid, method: str, number: int = 0) -> np.ndarray:
    field = grid.zeros(shared=method == "direct")
    field[grid.owned] = grid.rank + number
    return field


def filled(grid: Grid, field: np.ndarray, number: int = 0) -> bool:
    below, above = (grid.neighbor((step, 0)) + number for step in (-1, 1))
    return bool((field[0, 1:-1] == below).all() and (field[-1, 1:-1] == above).all())


def landed(comm) -> None:
    """All ranks complete what is adrift; the neighbours' halves have begun, so that it ends."""
    comm.Barrier()
    while adrift:
        land()
    comm.Barrier()


@pytest.mark.parametrize("method", METHODS)
def test_arrays_live_as_long_as_they_are_written(comm, method):
    grid, field = ring(comm, method)
    halo = Halo(grid, fields=[field], method=method)
    for _ in range(5):
        field = ranked(grid, method)
        halo.start(field)
        del field
        # Take the place of what was freed.
        others = [np.full(grid.local_shape, -1.0) for _ in range(3)]
        halo.wait()
        assert all((other == -1).all() for other in others)
    assert halo._flight is None


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_halos_that_are_dropped_in_flight_write_nowhere_else(comm, method, cyclic):
    grid, _ = ring(comm, method)
    fields = []
    for number in range(2):
        field = ranked(grid, method, number)
        halo = Halo(grid, fields=[field], method=method)
        halo.start(field)
        if cyclic:
            halo.__dict__["itself"] = halo
        if number % 2:
            fields.append((number, field))  # it outlives the Halo; else both are dropped
        del field, halo
        gc.collect()
        others = [np.full(grid.local_shape, -1.0) for _ in range(3)]
        again = ranked(grid, method, 7)
        Halo(grid, fields=[again], method=method).exchange(again)
        assert filled(grid, again, 7)
        assert all((other == -1).all() for other in others)
    landed(comm)
    assert all(filled(grid, field, number) for number, field in fields)


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_of_a_rank_that_drops_its_halo_complete_theirs(comm, method):
    grid, field = ring(comm, method)
    halo = Halo(grid, fields=[field], method=method)
    halo.start(field)
    if comm.rank == 0:
        del halo
        while adrift:
            land()
    else:
        halo.wait()
        assert filled(grid, field)
    comm.Barrier()
    assert filled(grid, field)


@pytest.mark.parametrize("method", METHODS)
def test_an_error_in_the_middle_leaves_the_rest_to_wait(comm, method, monkeypatch):
    grid, field = ring(comm, method)
    halo = Halo(grid, fields=[field], method=method)
    halo.exchange(field)
    field[grid.owned] = grid.rank + 10
    known, _ = halo._bindings[(id(field),)]

    def interrupted() -> None:
        known.start()
        raise KeyboardInterrupt

    halo._bindings[(id(field),)] = known._replace(call=interrupted), []
    with pytest.raises(KeyboardInterrupt):
        halo.exchange(field)
    with pytest.raises(HpckitError, match="between"):
        halo.exchange(field)
    halo.wait()
    assert filled(grid, field, 10)


@pytest.mark.parametrize("method", METHODS)
def test_two_halos_are_waited_for_in_any_order(comm, method):
    grid, field = ring(comm, method)
    fields = field, ranked(grid, method)
    halos = [Halo(grid, fields=[each], method=method) for each in fields]
    for turn in range(40 if method == "auto" else 4):
        for number, (halo, field) in enumerate(zip(halos, fields, strict=True)):
            field[grid.owned] = grid.rank + 10 * number + turn
            halo.start(field)
        order = list(enumerate(halos))
        for _, halo in order[:: 1 if (comm.rank + turn) % 2 else -1]:
            halo.wait()
        for number, field in enumerate(fields):
            assert filled(grid, field, 10 * number + turn)
    assert len({*comm.allgather([halo.method for halo in halos].__repr__())}) == 1


@pytest.mark.parametrize("method", FIXED)
def test_two_halos_are_started_in_any_order(comm, method):
    grid, field = ring(comm, method)
    fields = field, ranked(grid, method, 10)
    halos = [Halo(grid, fields=[each], method=method) for each in fields]
    for turn in range(3):
        pairs = list(zip(halos, fields, strict=True))[:: 1 if (comm.rank + turn) % 2 else -1]
        for halo, field in pairs:
            halo.start(field)
        for halo, _ in pairs:
            halo.wait()
        assert filled(grid, fields[0])
        assert filled(grid, fields[1], 10)


class Clock:
    """Stands still, or hurries: then a deadline passes within a few looks at it."""

    def __init__(self) -> None:
        self.now, self.hurries = 0.0, False

    def monotonic(self) -> float:
        self.now += self.hurries
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spin, "time", clock)
    return clock


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_deadline_names_who_does_not_come(comm, clock, method, before):
    if comm.size == 1:
        pytest.skip("one rank waits for nobody")
    grid, field = ring(comm, method)
    halo = Halo(grid, fields=[field], method=method, deadline=5)
    for _ in range(before):
        halo.exchange(field)
    field[grid.owned] = grid.rank + 5
    # While a race is on, starting is everybody's business.
    late = comm.size - 1
    race = method == "auto"
    waits = race or comm.rank in (0, late - 1)
    clock.hurries = race
    if comm.rank != late and not race:
        halo.start(field)
    comm.Barrier()
    if comm.rank != late and waits:
        clock.hurries = True
        # In a race all wait for all, and some are slow.
        names = r"ranks? [\d, -]+" if race else f"rank {late}"
        with pytest.raises(
            HpckitError, match=rf"{names} (is|are) late: waited 5 s for .* in a halo exchange"
        ):
            halo.exchange(field) if race else halo.wait()
    clock.hurries = False
    comm.Barrier()
    if comm.rank != late and not race:
        halo.wait()
    else:
        halo.exchange(field)
    assert filled(grid, field, 5)
    comm.Barrier()


def test_a_deadline_holds_for_planning_too(comm, clock):
    if comm.size == 1:
        pytest.skip("one rank waits for nobody")
    grid, field = ring(comm, "packed")
    halo = Halo(grid, deadline=5)
    clock.hurries = comm.rank > 0
    if comm.rank > 0:
        with pytest.raises(
            HpckitError, match=r"late: waited 5 s for .* in the planning of a halo exchange"
        ):
            halo.exchange(field)
    comm.Barrier()


def test_no_communicators_or_memory_for_each_halo(comm):
    grid, field = ring(comm, "packed")
    first = [Halo(grid, fields=[field], method=method) for method in ("neighbor", "shared")]
    assert first
    maps = Path("/proc/self/maps").read_text().count("memfd:hpckit-shared")
    for method in ("neighbor", "shared"):
        for _ in range(8):
            Halo(grid, fields=[field], method=method).exchange(field)
    # Fewer, where what earlier tests left behind goes meanwhile.
    assert Path("/proc/self/maps").read_text().count("memfd:hpckit-shared") <= maps
    assert len(_graphs[grid]) == 1


def test_grids_and_halos_of_parts_leave_nothing_behind(comm):
    """Nothing is kept; more rounds than MPI has communicators are in the reports."""
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for turn in range(6):
        part = comm.Split(0, comm.rank)
        grid = Grid(part, (8 * comm.size, 6), periodic=True)
        field = grid.zeros(shared=turn % 2 == 0)
        Halo(grid, fields=[field], method=("auto", "neighbor", "shared")[turn % 3]).exchange(field)
        alive = weakref.ref(grid), weakref.ref(grid.node_memory)
        del grid
        part.Free()
        del field
        gc.collect()
        assert [reference() for reference in alive] == [None, None]
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before + 2


@pytest.mark.parametrize("method", METHODS)
def test_the_end_of_the_program_completes_what_is_in_flight(comm, method, monkeypatch):
    from hpckit.halo import adrift as module

    monkeypatch.setattr(module, "_TIMEOUT", 60.0)
    grid, field = ring(comm, method)
    halo = Halo(grid, fields=[field], method=method)
    halo.start(field)
    module._end()
    assert not adrift
    assert filled(grid, field)
    with pytest.raises(HpckitError, match="without start"):
        halo.wait()
    comm.Barrier()


def test_arrays_cannot_move_while_a_halo_knows_them(comm):
    """Moves are bound to addresses: what a weak reference does not tell must not happen."""
    grid = Grid(comm, (8 * comm.size,), periodic=True)
    field = np.zeros(grid.local_shape)
    Halo(grid, fields=[field], method="packed").exchange(field)
    halo = Halo(grid, fields=[field], method="packed")
    halo.exchange(field)
    with pytest.raises(ValueError, match="resize"):
        field.resize(10_000, refcheck=False)
