"""Local arrays of a grid that lie on a device."""

from __future__ import annotations

import types
from contextlib import contextmanager

import numpy as np
import pytest

import hpckit
from hpckit import Grid
from hpckit.comm.device_array import DeviceArray
from hpckit.errors import ConfigError, HpckitError


@pytest.fixture
def device(comm):
    return hpckit.device(comm, "stand-in")


@pytest.fixture
def cupy():
    """As much of it as is used: it tells what it was asked for."""
    made = types.ModuleType("cupy")
    current = []

    @contextmanager
    def use(number):
        current.append(number)
        yield
        current.pop()

    made.cuda = types.SimpleNamespace(Device=use)
    made.zeros = lambda shape, dtype, order: ("zeros", shape, dtype, order, *current)
    made.empty = lambda shape, dtype, order: ("empty", shape, dtype, order, *current)
    return made


@pytest.fixture
def torch():
    made = types.ModuleType("torch")
    made.float32 = "torch.float32"
    made.zeros = lambda shape, dtype, device: ("zeros", shape, dtype, device)
    return made


@pytest.mark.parametrize("order", ["C", "F"])
def test_they_are_like_those_of_the_host(comm, device, order):
    grid = Grid(comm, (12, 8), width=((1, 2), (0, 3)))
    for how in ("zeros", "empty"):
        here = getattr(grid, how)("f4", (1, 0), order)
        there = getattr(grid, how)("f4", (1, 0), order, device="stand-in")
        assert isinstance(there, DeviceArray) and there.device is device
        assert (there.shape, there.strides, there.dtype) == (here.shape, here.strides, here.dtype)
    assert not grid.zeros(device=device).get().any()
    assert grid.zeros(device=device)[grid.owned].shape == grid.owned_shape()


def test_those_of_other_libraries(comm, device, cupy, torch):
    grid = Grid(comm, (12, 8))
    shape = grid.local_shape
    made = grid.zeros("i4", order="F", device=device, like=cupy)
    assert made == ("zeros", shape, np.dtype("i4"), "F", device.number)
    assert grid.empty(device=device, like=cupy)[0] == "empty"
    made = grid.zeros("f4", device=device, like=torch)
    assert made == ("zeros", shape, "torch.float32", f"stand-in:{device.number}")
    with pytest.raises(ConfigError, match="PyTorch cannot have order='F'"):
        grid.zeros("f4", order="F", device=device, like=torch)
    with pytest.raises(ConfigError, match="PyTorch has no arrays of dtype uint64"):
        grid.zeros("u8", device=device, like=torch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "stand-in", "shared": True}, "on a device cannot have shared=True"),
        ({"like": np}, "pass device= as well"),
        ({"device": "stand-in", "like": np}, "like=numpy must be the module cupy or torch"),
        ({"device": "gpu"}, "device 'gpu' must be one of"),
        ({"device": 0}, "device 0 must be one of"),
        ({"device": "stand-in", "dtype": object}, "cannot be on a device"),
        ({"device": "stand-in", "dtype": ">f8"}, "the other byte order"),
        ({"device": "stand-in", "order": "K"}, "order 'K' must be 'C' or 'F'"),
    ],
)
def test_bad_arguments(comm, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Grid(comm, (8, 8)).zeros(**arguments)


def test_a_device_that_is_full_is_an_error_on_all_ranks(comm, device, monkeypatch):
    grid = Grid(comm, (8, 8))
    if comm.rank == 0:
        monkeypatch.setattr(device._space, "_hole", lambda room, begin: None)
    one = f"of {comm.size} ranks failed: rank 0: " if comm.size > 1 else ""
    with pytest.raises(HpckitError, match=f"{one}.* of device memory cannot be had"):
        grid.zeros(device=device)
