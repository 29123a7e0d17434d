"""Fields that are elsewhere, streams that are none, forked processes: one clear error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import hpckit
from hpckit.comm import places
from hpckit.comm.device_array import DeviceArray, zeros
from hpckit.comm.grid import Grid
from hpckit.comm.stand_in import StandIn
from hpckit.errors import ConfigError, HpckitError
from hpckit.halo import Halo
from hpckit.names import DEVICE_HALO_METHODS

pytestmark = pytest.mark.mpi


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


@pytest.fixture
def grid(comm) -> Grid:
    return Grid(comm, (6 * comm.size, 6), periodic=True)


def refused(comm, message: str, make, kind: type[HpckitError] = ConfigError) -> None:
    with pytest.raises(kind, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert comm.allreduce(1) == comm.size  # nobody is left in a collective


def foreign(array: DeviceArray, **changes) -> SimpleNamespace:
    """As another library says it."""
    interface = array.__cuda_array_interface__ | changes
    return SimpleNamespace(__cuda_array_interface__=interface, owner=array)


def test_fields_in_another_place_than_planned(comm, grid, device):
    here, there = grid.zeros(), grid.zeros(device=device)
    on_host = Halo(grid, fields=[here], method="packed")
    on_device = Halo(grid, fields=[there], method="staged")
    message = r"planned for fields in host memory, but these are in stand-in .*another Halo"
    refused(comm, message, lambda: on_host.exchange(there))
    message = r"planned for fields in stand-in .*, but these are in host memory.*another Halo"
    refused(comm, message, lambda: on_device.start(here))
    refused(
        comm,
        "array 0 is in host memory and array 1 on a device",
        lambda: Halo(grid, fields=[here, there]),
    )
    on_host.exchange(here)
    on_device.exchange(there)


def test_ranks_with_fields_in_different_places(comm, grid, device):
    if comm.size == 1:
        pytest.skip("one rank agrees with itself")
    fields = grid.zeros(device=device), grid.zeros()
    refused(
        comm,
        "place of the arrays must be the same on all ranks",
        lambda: Halo(grid, fields=[fields[comm.rank > 0]]),
    )


@pytest.mark.parametrize("wrong", ["packed", "shared", "direct"])
def test_methods_of_the_host_for_fields_on_a_device(comm, grid, device, wrong):
    field = grid.zeros(device=device)
    methods = ", ".join(DEVICE_HALO_METHODS)
    refused(
        comm,
        f"'{wrong}' is not for fields in stand-in .*: choose one of auto, {methods}",
        lambda: Halo(grid, fields=[field], method=wrong),
    )


@pytest.mark.parametrize("wrong", DEVICE_HALO_METHODS)
def test_methods_of_devices_for_fields_of_the_host(comm, grid, wrong):
    refused(
        comm,
        f"'{wrong}' is not for fields in host memory: choose one of auto, datatype",
        lambda: Halo(grid, fields=[grid.zeros()], method=wrong),
    )


def test_no_such_method(comm, grid):
    refused(
        comm,
        "no halo method 'magic': choose one of auto, datatype, .*, or on a device .*staged",
        lambda: Halo(grid, method="magic"),
    )


def test_streams(comm, grid, device):
    here, there = grid.zeros(), grid.zeros(device=device)
    refused(
        comm,
        "stream=5 is for arrays on a device, but these are NumPy's",
        lambda: Halo(grid).exchange(here, stream=5),
    )
    halo = Halo(grid, fields=[there], method="staged")
    refused(comm, "'fast' is no stream", lambda: halo.exchange(there, stream="fast"))
    refused(comm, "has no stream 123456", lambda: halo.exchange(there, stream=123456), HpckitError)
    fields = [
        foreign(grid.zeros(device=device), stream=s) for s in (device.stream(), device.stream())
    ]
    several = Halo(grid, fields=fields, method="staged")
    refused(comm, r"used on streams \d+, \d+: say by stream=", lambda: several.exchange(*fields))
    several.exchange(*fields, stream=device.stream())
    halo.exchange(there)


def test_an_array_on_a_device_of_another_rank(comm, grid, device):
    other = places._opened("stand-in", device.number + comm.size)
    field = zeros(other, grid.local_shape)
    refused(
        comm,
        rf"on device {other.number} .* uses device {device.number}",
        lambda: Halo(grid, fields=[field]),
    )
    halo = Halo(grid, fields=[grid.zeros(device=device)], method="staged")
    refused(
        comm,
        rf"on device {other.number} .* uses device {device.number}",
        lambda: halo.exchange(field),
    )


def test_what_is_no_field(comm, grid, device):
    last, good = comm.rank == comm.size - 1, grid.zeros(device=device)
    columns = zeros(device, (*grid.local_shape, 3))
    wrong = {
        "has the other byte order": foreign(good, typestr=">f8"),
        "is masked": foreign(good, mask=good),
        "read-only": foreign(good, data=(good.__cuda_array_interface__["data"][0], True)),
        "owns .* cells": good[1:],
        r"such as field\[:, :, 0\]": columns,
        "overlaps itself": foreign(good, strides=(8, 8)),
    }
    for message, field in wrong.items():
        refused(comm, message, lambda field=field: Halo(grid, fields=[field if last else good]))
    refused(comm, "fields 0 and 1 overlap", lambda: Halo(grid, fields=[good, good[::-1]]))
    refused(comm, r"pass a list of arrays, such as fields=\[u\]", lambda: Halo(grid, fields=good))


def test_no_memory_on_one_rank_is_an_error_on_all(comm, grid, device, monkeypatch):
    field = grid.zeros(device=device)

    def none(self, nbytes):
        raise HpckitError("no device memory is left")

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(StandIn, "allocate", none)
    refused(
        comm,
        "no device memory is left",
        lambda: Halo(grid, fields=[field], method="staged"),
        HpckitError,
    )


def test_a_forked_child_is_refused(mpirun, tmp_path, comm):
    if comm.size > 1:
        pytest.skip("starts a rank of its own")
    script = tmp_path / "forks.py"
    script.write_text(FORKS)
    job = mpirun(1, script)
    assert "a device of the parent process cannot be used in a forked one" in job.stdout
    assert "parent goes on" in job.stdout


FORKS = """
import os
import sys
from mpi4py import MPI
from hpckit import Grid, Halo
grid = Grid(MPI.COMM_WORLD, (8, 8), periodic=True)
u = grid.zeros(device="stand-in")
halo = Halo(grid, fields=[u], method="staged")
halo.exchange(u)
child = os.fork()
if not child:
    try:
        halo.exchange(u)
    except Exception as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
halo.exchange(u)
u.get()
print("parent goes on")
"""
