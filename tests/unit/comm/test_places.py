"""Where arrays are, whose device it is, and which one a rank gets."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

import hpckit
from hpckit.comm import places
from hpckit.comm.device import HOST
from hpckit.comm.device_array import empty, zeros
from hpckit.comm.dlpack import CUDA, _Tensor, _Versioned
from hpckit.errors import ConfigError, HpckitError

FORK = """
import os, sys
from mpi4py import MPI
import hpckit
device = hpckit.device(MPI.COMM_WORLD, "stand-in")
u = hpckit.Grid(MPI.COMM_WORLD, (4, 4)).zeros(device=device)
u.set(1.0)
child = os.fork()
if child == 0:
    try:
        u.get()
    except hpckit.HpckitError as error:
        print(error, flush=True)
    del u
    os._exit(0)
os.waitpid(child, 0)
print(u.get().sum())
"""


class Foreign:
    """An array of another library, on the same device: it speaks one protocol, as told."""

    def __init__(self, array, **changes):
        self.array = array
        self.changes = changes

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__ | self.changes


class Tensor:
    """One that speaks DLPack alone, of version 1 or of the time before."""

    def __init__(self, array, versioned=True, flags=0, strides=True, **changes):
        self.array = array
        self.versioned = versioned
        shadow = array.shadow
        steps = [step // array.dtype.itemsize for step in array.strides]
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.strides = (ctypes.c_int64 * array.ndim)(*steps)
        numbers = ctypes.POINTER(ctypes.c_int64)
        values = {
            "data": shadow.__array_interface__["data"][0] - 8,
            "offset": 8,
            "device_type": CUDA,
            "ndim": array.ndim,
            "code": "iuf_Vc".index(array.dtype.kind),
            "bits": 8 * array.dtype.itemsize,
            "lanes": 1,
            "shape": ctypes.cast(self.shape, numbers),
            "strides": ctypes.cast(self.strides, numbers) if strides else None,
        }
        tensor = _Tensor(**(values | changes))
        self.memory = _Versioned(1, 0, None, None, flags, tensor) if versioned else tensor

    def __dlpack_device__(self):
        return CUDA, 0

    def __dlpack__(self, *, stream, **version):
        assert stream == -1, "nobody shall wait"
        if version and not self.versioned:
            raise TypeError("no such arguments")
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self.name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return make(ctypes.addressof(self.memory), self.name, None)


@pytest.fixture
def device(comm):
    return hpckit.device(comm, "stand-in")


def same_place(shadow, array):
    fields = ("shape", "strides", "dtype")
    at = shadow.__array_interface__["data"][0], array.shadow.__array_interface__["data"][0]
    return at[0] == at[1] and all(getattr(shadow, f) == getattr(array, f) for f in fields)


def test_numpy_is_the_host_and_ours_a_device(comm, device):
    assert places.place([]) is places.place([np.zeros(3), np.zeros(2)]) is HOST
    assert HOST.views([u := np.zeros(3)])[0] is u
    assert places.place([zeros(device, (3,)), empty(device, (2,), "i4")]) is device


@pytest.mark.parametrize("wrap", [Foreign, Tensor, lambda u: Tensor(u, versioned=False)])
@pytest.mark.parametrize(
    "index", [(), (slice(None, None, -1), slice(1, None, 2)), (2, slice(1, 3)), (1, 1)]
)
@pytest.mark.parametrize("dtype", ["f8", "i2", "c16"])
def test_arrays_of_others_are_where_they_say(comm, device, wrap, index, dtype):
    array = empty(device, (4, 5), dtype)[index]
    found = wrap(array)
    assert places.place([found, array]) is device
    assert same_place(device.view(found), array)


def test_a_tensor_without_strides_is_in_c_order(comm, device):
    array = empty(device, (4, 5))
    assert same_place(device.view(Tensor(array, strides=False)), array)


def test_a_shadow_keeps_the_users_array(comm, device):
    array = empty(device, (4,))
    shadow = device.view(Foreign(array))[1:]
    address = array.memory.address
    del array
    other = empty(device, (4,))
    assert other.memory.address != address
    device.copy(other.memory.address, address, 32, device.default_stream)
    device.synchronize(device.default_stream)  # it would be fatal
    assert shadow.size == 3


def test_who_may_not_write_into_an_array_may_not_into_its_shadow(comm, device):
    array = empty(device, (4,))
    address, _ = array.__cuda_array_interface__["data"]
    assert device.view(array).flags.writeable
    assert not device.view(Foreign(array, data=(address, True))).flags.writeable
    assert not device.view(Tensor(array, flags=1)).flags.writeable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": object()}, "is masked, and its mask would be lost"),
        ({"typestr": ">f8"}, r"dtype >f8 .* has the other byte order: use <f8"),
        ({"typestr": "|O"}, "cannot be on a device"),
    ],
)
def test_arrays_that_are_refused(comm, device, changes, message):
    with pytest.raises(ConfigError, match=message):
        places.place([Foreign(empty(device, (4,)), **changes)])


@pytest.mark.parametrize("changes", [{"lanes": 2}, {"bits": 4}, {"code": 9}])
def test_elements_that_numpy_does_not_know(comm, device, changes):
    with pytest.raises(ConfigError, match=r"DLPack type \d with \d+ bits in \d lanes"):
        places.place([Tensor(empty(device, (4,)), **changes)])


def test_bfloat16_is_two_bytes(comm, device):
    array = empty(device, (4,), "u2")
    assert device.view(Tensor(array, code=4)).dtype == "V2"


def test_arrays_in_several_places(comm, device):
    ours = empty(device, (3,))
    with pytest.raises(ConfigError, match="array 1 is in host memory and array 0 on a device"):
        places.place([ours, np.zeros(3)])
    address = ours.memory.address + (1 << 34) * (1 if device.number < 63 else -1)
    elsewhere = Foreign(ours, data=(address, False))
    with pytest.raises(ConfigError, match=f"but this rank uses device {device.number} .stand-in-"):
        places.place([elsewhere])


def test_an_empty_array_is_where_the_others_are(comm, device):
    nowhere = Foreign(empty(device, (0, 3)), data=(0, False))
    assert places.place([nowhere, empty(device, (3,))]) is device
    assert places.place([nowhere]) is device


def test_the_place_of_all_ranks(comm, device):
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    assert places.common_place(comm, node, [empty(device, (3,))]) is device
    assert places.common_place(comm, node, [np.zeros(3)]) is HOST
    if comm.size > 1:
        arrays = [np.zeros(3) if comm.rank else empty(device, (3,))]
        with pytest.raises(ConfigError, match=r"the place of the arrays must be the same.*host"):
            places.common_place(comm, node, arrays)
    node.Free()


class Handle:
    def __int__(self):
        return 5


class Library:
    def __cuda_stream__(self):
        return 0, 5


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (5, 5),
        (np.int64(5), 5),
        (0, 1),
        (Library(), 5),
        (SimpleNamespace(cuda_stream=5), 5),
        (SimpleNamespace(cuda_stream=0), 1),
        (SimpleNamespace(ptr=5), 5),
        (SimpleNamespace(handle=Handle()), 5),
        (SimpleNamespace(handle=ctypes.c_void_p(5)), 5),
        (SimpleNamespace(handle=ctypes.c_void_p(0)), 1),
    ],
)
def test_streams_of_all_libraries(stream, handle):
    assert places.handle_of(stream) == handle


@pytest.mark.parametrize("stream", ["5", 5.0, None, object(), SimpleNamespace(ptr="five")])
def test_what_is_no_stream(stream):
    with pytest.raises(ConfigError, match="is no stream: pass its handle"):
        places.handle_of(stream)


def test_the_stream_of_an_array(comm, device):
    array = empty(device, (3,))
    assert places.stream_of(array, device) == device.default_stream
    assert places.stream_of(Foreign(array, stream=7), device) == 7
    assert places.stream_of(Foreign(array, stream=None), device) == device.default_stream
    assert places.stream_of(Tensor(array), device) == device.default_stream
    assert places.stream_of(Foreign(array, stream=7), device, SimpleNamespace(ptr=9)) == 9


def test_a_rank_gets_one_device_for_good(comm, device):
    assert hpckit.device(comm, "stand-in") is device
    one = comm.Split(comm.rank)
    assert hpckit.device(one, "stand-in") is device
    one.Free()
    numbers = comm.allgather(device.number)
    assert len(set(numbers)) == comm.size


def test_launchers_say_which(comm, monkeypatch):
    monkeypatch.setattr(places, "_used", {})
    for name in places._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_LOCALID", str(comm.rank + 7))
    assert hpckit.device(comm, "stand-in").number == comm.rank + 7


def test_without_a_launcher_the_node_does(comm, monkeypatch):
    monkeypatch.setattr(places, "_used", {})
    for name in places._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    assert hpckit.device(comm, "stand-in").number == comm.rank


EARLY = """
import sys, hpckit
device = hpckit.device(None, "stand-in")
assert "mpi4py.MPI" not in sys.modules
from mpi4py import MPI
assert hpckit.device(MPI.COMM_WORLD, "stand-in") is device and device.number == MPI.COMM_WORLD.rank
print("ok", flush=True)
"""


def test_a_rank_may_have_its_device_before_mpi_begins(mpirun):
    assert mpirun(2, "-c", EARLY).stdout.split() == ["ok", "ok"]


def test_before_mpi_begins_only_launchers_can_tell(comm, monkeypatch):
    for name in places._LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="no launcher says which rank of its node this is"):
        hpckit.device(None, "stand-in")


IDLE = """
import hpckit, numpy
from mpi4py import MPI
from hpckit.comm import places
hpckit.Halo(grid := hpckit.Grid(MPI.COMM_WORLD, (8, 8)), 1, [grid.zeros()])
places.place([numpy.zeros(3)])
print(places._devices, places._used)
"""


def test_no_device_is_opened_by_accident(mpirun):
    assert mpirun(None, "-c", IDLE).stdout.splitlines()[-1] == "{} {}"


@pytest.mark.mpi(min_size=2)
def test_ranks_share_a_device_only_if_they_say_so(comm, monkeypatch):
    monkeypatch.setattr(places, "_used", {})
    monkeypatch.setattr(places, "_devices", {})
    monkeypatch.setenv("HPCKIT_STAND_IN_DEVICES", "1")
    made = places._devices["stand-in", 0] = SimpleNamespace(
        name="stand-in", uuid="stand-in-0", title="a stand-in", shared=False
    )
    with pytest.raises(
        ConfigError, match=r"ranks 0-\d would use one device, a stand-in .stand-in-0"
    ):
        hpckit.device(comm, "stand-in")
    assert not places._used
    assert hpckit.device(comm, "stand-in", share=True) is made
    assert hpckit.device(comm, "stand-in") is made


def test_names_of_devices(comm):
    with pytest.raises(ConfigError, match="device 'gpu' must be one of 'stand-in', 'cuda'"):
        hpckit.device(comm, "gpu")
    if comm.size > 1:
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            hpckit.device(comm, "stand-in" if comm.rank else "cuda")


def test_none_that_this_rank_sees(comm, monkeypatch):
    monkeypatch.setattr(places, "_used", {})
    monkeypatch.setenv("HPCKIT_STAND_IN_DEVICES", "0")
    with pytest.raises(HpckitError, match="this rank sees no device of kind 'stand-in'"):
        hpckit.device(comm, "stand-in")


def test_a_forked_child_is_refused_and_harms_nobody(mpirun):
    lines = mpirun(None, "-W", "ignore", "-c", FORK).stdout.splitlines()
    assert "of the parent process cannot be used in a forked one" in lines[0]
    assert lines[1:] == ["36.0"]
