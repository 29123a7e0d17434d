"""The model of a device as it is measured, on the stand-in: agreement, its file, and refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import hpckit
from hpckit import native
from hpckit.comm import measure, measure_device
from hpckit.comm.measure_device import with_device_steps
from hpckit.comm.stand_in import StandIn, census
from hpckit.errors import HpckitError
from hpckit.machine.device_model import DeviceModel
from hpckit.machine.node_memory import NodeMemory

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]
ALONE = {"launch", "settle", "pack", "unpack", "mapped pack", "mapped unpack"}
ALONE |= {"to host", "to device"}


@pytest.fixture
def cache(shared_path, monkeypatch):
    """An empty cache folder for all ranks; few points are measured."""
    for module in ("hpckit.comm.moves", "hpckit.comm.device_kernels"):
        native.load(module)  # else they would be compiled again for the empty cache
    monkeypatch.setenv("HPCKIT_CACHE", str(shared_path))
    monkeypatch.setattr(measure, "TIME", 1e-9)
    for name in ("SIZES", "MESSAGES"):
        monkeypatch.setattr(measure, name, (512, 4096))
    monkeypatch.setattr(measure, "AREA", 1 << 19)
    monkeypatch.setattr(measure_device, "SIZES", (4096, 16384))
    monkeypatch.setattr(measure_device, "AREA", 1 << 18)
    return shared_path


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


def model_of(comm, device: StandIn) -> DeviceModel:
    """As a program does that starts anew."""
    again = comm.Dup()
    model = with_device_steps(again, NodeMemory.of(again), device)
    again.Free()
    return model


def files(comm, cache: Path) -> list[Path]:
    comm.Barrier()
    found = sorted(cache.glob("device-*"))
    comm.Barrier()
    return found


def test_all_ranks_get_the_same_numbers(comm, cache, device):
    model = model_of(comm, device)
    assert comm.allgather(model.steps) == [model.steps] * comm.size
    assert {*model.steps} == ALONE | ({"signal", "peer"} if comm.size > 1 else set())
    alone = [
        model.launch(),
        model.settle(),
        model.pack(1000, 8),
        model.unpack(1000, 8),
        model.mapped_pack(1000, 8),
        model.mapped_unpack(1000, 8),
        model.to_host(1000),
        model.to_device(1000),
    ]
    assert all(0 < seconds < 1 for seconds in alone)
    pairs = [model.signal(), model.peer(1000, 8), model.message(1000)]
    assert all(0 < seconds < 1 for seconds in pairs) if comm.size > 1 else pairs == [math.inf] * 3


def test_measured_once(comm, cache, device):
    first = model_of(comm, device)
    assert len(files(comm, cache)) == 1
    assert model_of(comm, device).steps == first.steps
    assert len(files(comm, cache)) == 1


def test_kept_by_device_and_whether_it_is_shared(comm, cache, device, monkeypatch):
    model_of(comm, device)
    monkeypatch.setattr(StandIn, "title", "another one")
    model_of(comm, device)
    assert len(files(comm, cache)) == 2
    monkeypatch.setattr(device, "shared", True)
    model_of(comm, device)
    assert len(files(comm, cache)) == 3


def test_devices_that_differ_have_the_model_of_the_first_rank(comm, cache, device, monkeypatch):
    monkeypatch.setattr(device, "title", f"device of rank {comm.rank}", raising=False)
    model = model_of(comm, device)
    assert comm.allgather(model.steps) == [model.steps] * comm.size
    assert len(files(comm, cache)) == 1


def test_nothing_is_left(comm, cache, device):
    model_of(comm, device)
    kinds = "allocations", "pinned", "registered", "opened", "events"
    before = {kind: census[kind] for kind in kinds}
    for path in files(comm, cache):
        path.unlink(missing_ok=True)
    model_of(comm, device)
    assert {kind: census[kind] for kind in kinds} == before


@pytest.mark.parametrize("verb", ["allocate", "pinned", "open"])
def test_what_a_device_refuses_is_told_and_not_kept(comm, cache, device, monkeypatch, caplog, verb):
    if comm.size == 1 and verb == "open":
        pytest.skip("one rank opens nothing")

    def refuse(*_: object) -> None:
        raise HpckitError("there is no more of it")

    monkeypatch.setattr(StandIn, verb, refuse)
    model = model_of(comm, device)
    assert comm.allgather(model.steps) == [model.steps] * comm.size
    assert model.peer(1000, 8) == math.inf
    assert any("there is no more of it" in text for text in comm.allgather(caplog.text))
    assert not files(comm, cache)
