"""What a DLPack capsule says of an array, read without taking it over.

Layout: https://dmlc.github.io/dlpack/latest/c_api.html. The capsule goes on owning what it owns;
whoever looks at the memory keeps both it and the array alive.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError

CUDA, CUDA_MANAGED = 2, 13  # device types
_KINDS = {0: "i", 1: "u", 2: "f", 4: "V", 5: "c", 6: "b"}  # 4: bfloat16, of which NumPy has none
_READ_ONLY = 1


class Tensor(NamedTuple):
    """shape in elements, strides in bytes; `capsule` keeps the memory."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype
    read_only: bool
    capsule: Any


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; none: in C order
        ("offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def read(array: Any) -> Tensor:
    """Of an array with `__dlpack__`. Raises `ConfigError` for elements that NumPy has no name for.

    Its producer is asked not to wait for anything (stream -1): the order of work is our affair.
    """
    try:
        capsule = array.__dlpack__(stream=-1, max_version=(1, 0), copy=False)
    except TypeError:  # from before version 1
        capsule = array.__dlpack__(stream=-1)
    name, pointer = _capsule(capsule)
    versioned = name == b"dltensor_versioned"
    flags, tensor = 0, _Tensor.from_address(pointer) if not versioned else None
    if tensor is None:
        whole = _Versioned.from_address(pointer)
        flags, tensor = whole.flags, whole.tensor
    dtype = _dtype(tensor)
    n = tensor.ndim
    strides = [stride * dtype.itemsize for stride in tensor.strides[:n]] if tensor.strides else None
    return Tensor(
        (tensor.data or 0) + tensor.offset,
        tuple(tensor.shape[:n]) if n else (),
        None if strides is None else tuple(strides),
        dtype,
        bool(flags & _READ_ONLY),
        capsule,
    )


def _capsule(capsule: Any) -> tuple[bytes, int]:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    return name, api.PyCapsule_GetPointer(capsule, name)


def _dtype(tensor: _Tensor) -> np.dtype:
    if tensor.code not in _KINDS or tensor.bits % 8 or tensor.lanes != 1:
        raise ConfigError(
            f"an array of DLPack type {tensor.code} with {tensor.bits} bits in {tensor.lanes} "
            "lanes cannot be used: elements must be whole bytes that NumPy knows, or bfloat16"
        )
    return np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
