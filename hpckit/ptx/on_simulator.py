"""What device kernels are made of in plain Python, for Numba's simulator (see `hpckit.ptx`).

There each thread of a block is a thread of Python, so blocks are small. Words that are not aligned
to their size, which GPUs refuse and CPUs allow, are refused. Needs `NUMBA_ENABLE_CUDASIM=1`.
"""

import ctypes
import math
import sys

import numpy as np
from numba import cuda

THREADS = 32
sqrt = math.sqrt
f8, f4 = float, np.float32


def function(inner):
    return inner


def i8(x):
    return ctypes.c_int64(x).value


def i4(x):
    return ctypes.c_int32(x).value


def u8(x):
    return ctypes.c_uint64(x).value


def u4(x):
    return ctypes.c_uint32(x).value


def _at(address, kind):
    assert address % ctypes.sizeof(kind) == 0, f"{kind} at {address:#x}"
    return kind.from_address(address)


def _word(kind, of=int):
    def load(address):
        return of(_at(address, kind).value)

    def store(address, value):
        _at(address, kind).value = value

    return load, store


load_f8, store_f8 = _word(ctypes.c_double, f8)
load_f4, store_f4 = _word(ctypes.c_float, f4)
load_i8, store_i8 = _word(ctypes.c_int64)
load_i4, store_i4 = _word(ctypes.c_int32)
load_i2, store_i2 = _word(ctypes.c_int16)
load_i1, store_i1 = _word(ctypes.c_int8)
load_u8, store_u8 = _word(ctypes.c_uint64)
load_u4, store_u4 = _word(ctypes.c_uint32)
load_u2, store_u2 = _word(ctypes.c_uint16)
load_u1, store_u1 = _word(ctypes.c_uint8)


def load_pair(address):
    return tuple(_at(address, ctypes.c_uint64 * 2))


def store_pair(address, value):
    _at(address, ctypes.c_uint64 * 2)[:] = value


def divide(n, d, multiplier, shift):
    quotient = (u4(2 * n) * multiplier >> 32) >> shift
    return quotient, u4(n - quotient * d)


def launch(factory, blocks, *arguments):
    """Run a kernel, given its thread's factory."""
    thread = factory(sys.modules[__name__])

    @cuda.jit
    def kernel(*arguments):
        thread(cuda.blockIdx.x, cuda.threadIdx.x, *arguments)

    kernel[blocks, THREADS](*arguments)
