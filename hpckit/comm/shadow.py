"""Shadows: NumPy arrays at a device's addresses, for arithmetic on places alone.

A shadow has the shape, strides and dtype of an array in a device's memory and says where its
elements are, so that all that plans compute of NumPy arrays (boxes, moves, overlaps) holds for
device arrays as well. Its elements are out of the host's reach: whoever reads one, dies.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from hpckit.comm import dlpack
from hpckit.errors import ConfigError


class Shadow(np.ndarray):
    """One that can be printed, by debuggers and tests that fail: without its elements."""

    def __repr__(self) -> str:
        return f"<shadow at {self.__array_interface__['data'][0]:#x}: {self.shape} {self.dtype}>"

    __str__ = __repr__


class _Place:
    """What NumPy makes a shadow of; the base of it, which keeps the user's array alive."""

    @classmethod
    def shadow(cls, *place: Any) -> Shadow:
        return np.asarray(cls(*place)).view(Shadow)

    def __init__(
        self,
        keep: object,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        dtype: np.dtype,
        read_only: bool = False,
    ) -> None:
        self.keep = keep
        self.__array_interface__ = {
            "data": (address, read_only),
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
            "descr": dtype.descr,
            "version": 3,
        }


def is_of_device(array: Any) -> bool:
    """Whether it says that it is in the memory of a GPU."""
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    if not hasattr(array, "__dlpack_device__"):
        return False
    return array.__dlpack_device__()[0] in (dlpack.CUDA, dlpack.CUDA_MANAGED)


def shadow(array: Any) -> Shadow:
    """That of an array with `__cuda_array_interface__` or `__dlpack__`; it keeps the array alive.

    Raises `ConfigError` where the array is masked, of the other byte order or of Python objects.

    ::

        shadow(cupy.zeros((3, 4)))[0].strides  # (8,)
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    return _of_dlpack(array) if interface is None else _of_interface(array, interface)


def shadow_at(
    keep: object,
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    order: Literal["C", "F"] = "C",
) -> np.ndarray:
    """That of new memory at an address, which `keep` owns."""
    nbytes = math.prod(shape) * _checked(dtype).itemsize
    memory = _Place.shadow(keep, address, (nbytes,), None, np.dtype("u1"))
    return memory.view(dtype).reshape(shape, order=order)


def _of_interface(array: Any, interface: dict[str, Any]) -> Shadow:
    if interface.get("mask") is not None:
        raise ConfigError(
            "an array on a device is masked, and its mask would be lost: give values to what is "
            "masked"
        )
    address, read_only = interface["data"]
    dtype = np.dtype(interface["typestr"])
    if dtype.kind == "V" and "descr" in interface:
        dtype = np.dtype(interface["descr"])
    shape, strides = tuple(interface["shape"]), interface.get("strides")
    strides = None if strides is None else tuple(strides)
    return _Place.shadow(array, address or 0, shape, strides, _checked(dtype), read_only)


def _of_dlpack(array: Any) -> Shadow:
    address, shape, strides, dtype, read_only, capsule = dlpack.read(array)
    return _Place.shadow((array, capsule), address, shape, strides, dtype, read_only)


def _checked(dtype: np.dtype) -> np.dtype:
    if dtype.hasobject:
        raise ConfigError(f"arrays of dtype {dtype} cannot be on a device: it has no Python")
    if not dtype.isnative:
        raise ConfigError(
            f"an array of dtype {dtype.str} on a device has the other byte order: use "
            f"{dtype.newbyteorder('=').str}"
        )
    return dtype
