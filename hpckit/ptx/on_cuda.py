"""Kernel source: what device kernels are made of on NVIDIA's GPUs (see `hpckit.ptx`).

Used by `hpckit.ptx.compiler` alone, which makes PTX of them.
"""

import math
import sys

from numba import cuda, types

from hpckit.ptx.conventions import THREADS as THREADS
from hpckit.ptx.words import division, pair, word

sqrt = math.sqrt
i8, i4, u8, u4 = types.int64, types.int32, types.uint64, types.uint32
f8, f4 = types.float64, types.float32
function = cuda.jit(device=True)
_GLOBAL = 1  # the address space of all memory that kernels here reach


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer(_GLOBAL))


load_f8, store_f8 = word(types.float64, _pointer, "cuda")
load_f4, store_f4 = word(types.float32, _pointer, "cuda")
load_i8, store_i8 = word(types.int64, _pointer, "cuda")
load_i4, store_i4 = word(types.int32, _pointer, "cuda")
load_i2, store_i2 = word(types.int16, _pointer, "cuda")
load_i1, store_i1 = word(types.int8, _pointer, "cuda")
load_u8, store_u8 = word(types.uint64, _pointer, "cuda")
load_u4, store_u4 = word(types.uint32, _pointer, "cuda")
load_u2, store_u2 = word(types.uint16, _pointer, "cuda")
load_u1, store_u1 = word(types.uint8, _pointer, "cuda")
load_pair, store_pair = pair(_pointer, "cuda")
divide = division("cuda")


def on_cuda(thread):
    """A kernel's thread, given its factory."""
    return function(thread(sys.modules[__name__]))
