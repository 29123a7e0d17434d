"""Our arrays on a device: what they say of themselves, views, and copies to the host and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpckit
from hpckit.comm.device import STAGING
from hpckit.comm.device_array import empty, zeros
from hpckit.comm.stand_in import census
from hpckit.errors import ConfigError


@pytest.fixture
def device(comm):
    return hpckit.device(comm, "stand-in")


def numbers(shape, dtype="f8"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def test_what_it_says_of_itself(comm, device):
    u = empty(device, (3, 4), "f4", "F")
    assert (u.shape, u.strides, u.dtype, u.nbytes) == ((3, 4), (4, 12), np.dtype("f4"), 48)
    assert (u.ndim, u.size, len(u)) == (2, 12, 3)
    assert repr(u) == f"<DeviceArray (3, 4) float32 on {device.uuid}>"
    interface = u.__cuda_array_interface__
    assert interface["version"] == 3 and interface["typestr"] == "<f4"
    assert interface["data"] == (u.memory.address, False)
    assert interface["stream"] == device.default_stream
    assert interface["strides"] == (4, 12)
    assert empty(device, (3, 4)).__cuda_array_interface__["strides"] is None


steps = st.sampled_from([None, 1, 2, -1, -2])
cuts = st.builds(slice, st.integers(-4, 4) | st.none(), st.integers(-4, 4) | st.none(), steps)
indices = st.lists(
    cuts | st.integers(-1, 0) | st.none() | st.just(Ellipsis), max_size=3
).filter(lambda index: sum(i is not None and i is not Ellipsis for i in index) <= 2 and
         index.count(Ellipsis) <= 1)  # fmt: skip


@given(
    index=indices,
    dtype=st.sampled_from(["f8", "i1", "c16", "V3"]),
    order=st.sampled_from("CF"),
)
def test_views_are_those_of_numpy(comm, device, index, dtype, order):
    host = np.array(numbers((3, 5), "i1" if dtype == "V3" else dtype), order=order)
    host = host.view("V1").repeat(3, -1).view("V3") if dtype == "V3" else host
    u = empty(device, host.shape, host.dtype, order)
    u.set(host)
    index = tuple(index)
    there, here = u[index], host[(*index, ...) if Ellipsis not in index else index]
    assert there.shape == here.shape and there.memory is u.memory
    assert there.get().tobytes() == here.tobytes()
    here[...] = np.ones(1, "i1").astype(host.dtype) if dtype != "V3" else np.void(b"abc")
    there.set(here.copy())
    assert u.get().tobytes() == host.tobytes()


def test_rows_are_views_and_there_is_an_end(comm, device):
    u = zeros(device, (3, 2), "i4")
    for i, row in enumerate(u):
        row.set(i)
    assert u.get().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert u[1, 0].shape == () and u[np.int64(2), 1].get() == 2
    with pytest.raises(IndexError):
        u[3]


@pytest.mark.parametrize("index", [[0, 1], True, np.array([0]), (0, [1]), "a"])
def test_other_indices_are_refused(comm, device, index):
    with pytest.raises(ConfigError, match=r"must be of ints, slices, \.\.\. and None"):
        empty(device, (3, 4))[index]


def test_it_is_not_made_numpys_by_accident(comm, device):
    u, here = zeros(device, (3,)), np.zeros(3)
    for use in (np.asarray, np.sum, lambda u: here + u, lambda u: here.__setitem__(..., u)):
        with pytest.raises(TypeError, match=r"only by a copy: use .get\(\)"):
            use(u)


def test_large_ones_go_in_pieces(comm, device):
    host = np.random.default_rng(comm.rank).integers(0, 256, 2 * STAGING + 1001, "u1")
    u = empty(device, host.shape, "u1")
    u.set(host)
    assert (u.get() == host).all()
    u[::-1].set(host)
    assert (u.get() == host[::-1]).all()


def test_copies_wait_for_the_stream(comm, device):
    u, v = zeros(device, (3,)), zeros(device, (3,))
    v.set(1.0)
    stream = device.stream()
    device.copy(u.memory.address, v.memory.address, u.nbytes, stream)
    assert not u.get().any()
    assert u.get(stream).all()
    device.copy(v.memory.address, u.memory.address, u.nbytes, stream)
    v.set(2.0, stream)
    assert (v.get() == 2).all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_ones_and_numbers(comm, device, shape):
    u = zeros(device, shape)
    before = census["launches"]
    u.set(3.0)
    assert u.get().shape == shape and (u.get() == 3).all()
    assert census["launches"] == before


def test_structures(comm, device):
    dtype = np.dtype([("a", "f8"), ("b", "i4")], align=True)
    u = empty(device, (2, 3), dtype)
    u.set(np.array((1.5, 2), dtype))
    assert u.get()["a"].tolist() == [[1.5] * 3] * 2 and u.get().dtype == dtype


def test_values_that_do_not_fit(comm, device):
    with pytest.raises(ValueError, match="could not broadcast"):
        zeros(device, (3,)).set(np.ones(4))


def test_python_objects_stay_on_the_host(comm, device):
    with pytest.raises(ConfigError, match="cannot be on a device"):
        empty(device, (3,), object)
