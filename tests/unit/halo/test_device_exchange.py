"""Exchanges of fields on a device: the same bytes as on the host, in the order of streams."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ghosts import RECORD, SHAPES, expected, numbered
from hypothesis import given, settings
from hypothesis import strategies as st

import hpckit
from hpckit.comm.device_array import DeviceArray, zeros
from hpckit.comm.grid import Grid
from hpckit.comm.stand_in import StandIn
from hpckit.errors import HpckitError
from hpckit.halo import Halo, slab

pytestmark = pytest.mark.mpi
METHODS = ["staged", "oneshot"]  # `device` needs an MPI library that takes its memory: see below


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


class Foreign:
    """An array of another library, with any strides."""

    def __init__(self, view: np.ndarray, stream: int | None = None) -> None:
        self.view = view
        self.__cuda_array_interface__ = view.__array_interface__ | {"stream": stream, "version": 3}


def on_device(device: StandIn, values: np.ndarray) -> DeviceArray:
    """A copy, with the same order of dimensions."""
    order = "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"
    array = zeros(device, values.shape, values.dtype, order)
    array.set(values)
    return array


# -- the definition


def check(grid: Grid, device: StandIn, method: str, corners: bool, kinds) -> None:
    """`kinds`: (dtype, stagger, order) of each field."""
    hosts = [numbered(grid, *kind) for kind in kinds]
    fields = [on_device(device, host) for host in hosts]
    halo = Halo(grid, fields=fields, corners=corners, method=method)
    halo.start(*fields)
    halo.wait()
    halo.exchange(*fields)
    for field, host, (_, stagger, _) in zip(fields, hosts, kinds, strict=True):
        np.testing.assert_array_equal(field.get(), expected(grid, host, stagger, corners))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_method_fills_every_ghost_and_nothing_else(comm, device, method, shape):
    for periodic, width, corners in product((False, True), (1, 2), (False, True)):
        grid = Grid(comm, shape, periodic=periodic, width=width)
        check(grid, device, method, corners, [("f8", 0, "C")])


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(8, 12), min_size=1, max_size=3),
    wrap=st.lists(st.booleans(), min_size=3, max_size=3),
    sides=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3),
    corners=st.booleans(),
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["u1", "i2", "f4", "f8", "c16", RECORD]),
            st.booleans(),
            st.sampled_from(["C", "F"]),
        ),
        min_size=1,
        max_size=3,
    ),
    method=st.sampled_from(METHODS),
)
def test_any_fields_widths_and_borders(comm, device, shape, wrap, sides, corners, kinds, method):
    grid = Grid(comm, shape, periodic=wrap[: len(shape)], width=sides[: len(shape)])
    kinds = [(dtype, [int(stagger)] * len(shape), order) for dtype, stagger, order in kinds]
    check(grid, device, method, corners, kinds)


def test_views_of_either_sign_and_arrays_of_others(comm, device, method):
    """Components of vectors and records, reversed and transposed: nothing between is touched."""
    grid = Grid(comm, (12, 10), periodic=True, width=(1, 2))
    rows, columns = grid.local_shape
    wholes = [
        zeros(device, shape, dtype)
        for shape, dtype in (
            ((rows, columns, 2), "f8"),
            ((rows, columns), "f8"),
            ((2 * columns, rows), "f4"),
            ((rows, columns), "u1"),
            ((rows, columns), RECORD),
        )
    ]
    for whole in wholes:
        whole.set(np.full((), -1).astype("i1").astype(whole.dtype))
    vector, backwards, turned, small, records = (whole.shadow for whole in wholes)
    views = [
        vector[..., 1],
        backwards[::-1, ::-1],
        turned[::2].T,
        small[::-1, ::-1],
        records["kind"],
    ]
    hosts = [numbered(grid, view.dtype) for view in views]
    fields = [Foreign(view) for view in views]
    for view, host, whole in zip(views, hosts, wholes, strict=True):
        DeviceArray(device, whole.memory, view).set(host)
    for stream in (None, device.stream()):
        Halo(grid, fields=fields, method=method).exchange(*fields, stream=stream)
        device.synchronize(stream or device.default_stream)
    for view, host, whole in zip(views, hosts, wholes, strict=True):
        values = DeviceArray(device, whole.memory, view).get()
        np.testing.assert_array_equal(values, expected(grid, host, 0, False))
    assert (wholes[0].get()[..., 0] == -1).all()
    assert (wholes[2].get()[1::2] == -1).all()
    assert (wholes[4].get()["mass"] == -1).all()
    assert (wholes[4].get()["at"] == -1).all()


def test_large_halos_are_staged_in_chunks(comm, device, monkeypatch):
    """Of a few bytes here: messages that share a chunk, and such that take several."""
    for chunk in (64, 200, 1000):
        monkeypatch.setattr(slab, "CHUNK", chunk)
        grid = Grid(comm, (7, 9, 8), periodic=(True, False, True), width=((1, 2), 1, (0, 1)))
        check(grid, device, "staged", True, [("f8", 0, "C"), ("i2", 1, "F")])


def test_an_mpi_library_that_takes_device_memory(mpirun, comm, tmp_path):
    """Made of a stand-in that the host may read: method `device` gives MPI its addresses."""
    if comm.size > 1:
        pytest.skip("starts ranks of its own")
    script = tmp_path / "aware.py"
    script.write_text(AWARE)
    for method, rc in (("device", 0), ("staged", 0)):
        job = mpirun(2, script, method, HPCKIT_STAND_IN="readable")
        assert job.returncode == rc, job.stdout
        assert job.stdout.count("filled") == 2
    assert mpirun(2, script, "device").returncode != 0  # it dies of what it must not touch


@pytest.mark.parametrize(("seen", "refused"), [(False, True), (True, False), (None, False)])
def test_an_mpi_library_that_was_seen_to_fail_is_refused(comm, device, monkeypatch, seen, refused):
    monkeypatch.setattr("hpckit.halo.device.known", lambda place: seen)
    grid = Grid(comm, (9, 8), periodic=True)
    u = grid.zeros(device=device)
    if refused:
        with pytest.raises(HpckitError, match="MPI cannot take addresses of"):
            Halo(grid, fields=[u], method="device")
    else:
        assert Halo(grid, fields=[u], method="device").method == "device"


AWARE = """
import sys
import numpy as np
from mpi4py import MPI
from hpckit import Grid, Halo
grid = Grid(MPI.COMM_WORLD, (9, 8), periodic=True)
u, reference = grid.zeros(device="stand-in"), grid.zeros()
reference[grid.owned] = 1 + grid.rank
u.set(reference)
halo = Halo(grid, fields=[u], method=sys.argv[1], corners=True)
halo.exchange(u)
Halo(grid, fields=[reference], method="packed", corners=True).exchange(reference)
np.testing.assert_array_equal(u.get(), reference)
assert f"MPI gets {dict(device='device', staged='pinned')[sys.argv[1]]} pointers" in halo.explain()
print("filled")
"""
