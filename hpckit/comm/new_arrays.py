"""A grid's local arrays on a device: ours, or those of CuPy and PyTorch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from mpi4py import MPI

from hpckit.comm import device_array
from hpckit.comm.device import Device, DeviceArrays
from hpckit.comm.places import open_device
from hpckit.errors import ConfigError, together

How = Literal["empty", "zeros"]
Order = Literal["C", "F"]


def on_device(
    comm: MPI.Intracomm,
    how: How,
    shape: tuple[int, ...],
    dtype: Any,
    order: Order,
    shared: bool,
    device: Any,
    like: Any,
) -> Any:
    """An array on this rank's device, ours or that of the module `like` (collective).

    Raises on all ranks `ConfigError` where that is not to be had, and `HpckitError` where the
    memory is not.
    """
    with together(comm):
        if device is None:
            raise ConfigError(
                "like= says whose array on a device it shall be: pass device= as well"
            )
        if shared:
            raise ConfigError(
                "an array on a device cannot have shared=True: other ranks reach it without"
            )
        if order not in ("C", "F"):
            raise ConfigError(f"order {order!r} must be 'C' or 'F'")
        make = _maker(like)
    found = device if isinstance(device, DeviceArrays) else open_device(comm, device)
    with together(comm):
        return make(like, how, found, shape, np.dtype(dtype), order)


def _maker(like: Any) -> Any:
    name = "" if like is None else getattr(like, "__name__", repr(like))
    if name not in _MAKERS:
        raise ConfigError(f"like={name} must be the module cupy or torch, or left out")
    return _MAKERS[name]


def _own(
    _: None, how: How, device: Device, shape: tuple[int, ...], dtype: np.dtype, order: Order
) -> device_array.DeviceArray:
    return getattr(device_array, how)(device, shape, dtype, order)


def _cupy(
    cupy: Any, how: How, device: Device, shape: tuple[int, ...], dtype: np.dtype, order: Order
) -> Any:
    with cupy.cuda.Device(device.number):
        return getattr(cupy, how)(shape, dtype, order=order)


def _torch(
    torch: Any, how: How, device: Device, shape: tuple[int, ...], dtype: np.dtype, order: Order
) -> Any:
    if order != "C":
        raise ConfigError("an array of PyTorch cannot have order='F': use 'C', or like=cupy")
    kind = getattr(torch, dtype.name, None)
    if kind is None:
        raise ConfigError(f"PyTorch has no arrays of dtype {dtype}")
    return getattr(torch, how)(shape, dtype=kind, device=f"{device.name}:{device.number}")


_MAKERS = {"": _own, "cupy": _cupy, "torch": _torch}
