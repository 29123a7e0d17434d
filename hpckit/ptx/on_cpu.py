"""Kernel source: what device kernels are made of on a CPU, for their twins (see `hpckit.ptx`).

A twin works on the stand-in's memory, whose addresses the host must not touch: it reaches each byte
at another address, the *inside* one.
"""

import sys

from llvmlite import ir
from numba import njit, types

from hpckit.ptx.addresses import INSIDE, WINDOW, WINDOW_BITS
from hpckit.ptx.words import multiply_and_shift, pair, word

THREADS = 256
function = njit
i4 = types.int32


def _pointer(builder, address, kind):
    """Addresses in the device's window, and those alone, are moved to where they may be touched."""
    integer = ir.IntType(64)
    window = builder.lshr(address, ir.Constant(integer, WINDOW_BITS))
    on_device = builder.icmp_unsigned("==", window, ir.Constant(integer, WINDOW))
    inside = builder.add(address, ir.Constant(integer, INSIDE))
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
quotient = multiply_and_shift("cpu")


def on_cpu(thread):
    """A kernel's thread, given its factory, for `launch`."""
    return njit(error_model="numpy")(thread(sys.modules[__name__]))


@njit
def launch(thread, blocks, *arguments):
    """Run all threads of all blocks, one after the other."""
    for block in range(blocks):
        for lane in range(THREADS):
            thread(block, lane, *arguments)
