"""Kernel source: what device kernels are made of on a CPU, for their twins (see `hpckit.ptx`).

A twin works on memory of the stand-in, which the host must not touch at its own addresses: see
`hpckit.comm.stand_in_memory`.
"""

import math
import sys

from llvmlite import ir
from numba import njit, types

from hpckit.ptx.conventions import INSIDE, SPACE, SPACE_BITS, THREADS
from hpckit.ptx.words import division, pair, word

function = njit
sqrt = math.sqrt
i8, i4, u8, u4 = types.int64, types.int32, types.uint64, types.uint32
f8, f4 = types.float64, types.float32


def _pointer(builder, address, kind):
    """Addresses of a device, and those alone, are moved to where they may be touched."""
    integer = ir.IntType(64)
    space = builder.lshr(address, integer(SPACE_BITS))
    on_device = builder.icmp_unsigned("==", space, integer(SPACE >> SPACE_BITS))
    inside = builder.add(address, integer(INSIDE))
    return builder.inttoptr(builder.select(on_device, inside, address), kind.as_pointer())


load_f8, store_f8 = word(types.float64, _pointer, "cpu")
load_f4, store_f4 = word(types.float32, _pointer, "cpu")
load_i8, store_i8 = word(types.int64, _pointer, "cpu")
load_i4, store_i4 = word(types.int32, _pointer, "cpu")
load_i2, store_i2 = word(types.int16, _pointer, "cpu")
load_i1, store_i1 = word(types.int8, _pointer, "cpu")
load_u8, store_u8 = word(types.uint64, _pointer, "cpu")
load_u4, store_u4 = word(types.uint32, _pointer, "cpu")
load_u2, store_u2 = word(types.uint16, _pointer, "cpu")
load_u1, store_u1 = word(types.uint8, _pointer, "cpu")
load_pair, store_pair = pair(_pointer, "cpu")
divide = division("cpu")


def on_cpu(thread):
    """A kernel's thread, given its factory, for `launch`."""
    return njit(error_model="numpy")(thread(sys.modules[__name__]))


@njit
def launch(thread, blocks, *arguments):
    """Run all threads of all blocks, one after the other."""
    for block in range(blocks):
        for lane in range(THREADS):
            thread(block, lane, *arguments)
