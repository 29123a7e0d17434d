"""Room on the stack for kernels, which never allocate."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic(prefer_literal=True)
def doubles(typing, n):
    """A pointer to `n` float64 (a constant) that live until the kernel returns: not cleared."""
    size = n.literal_value

    def codegen(context, builder, signature, arguments):
        room = cgutils.alloca_once(builder, ir.ArrayType(ir.DoubleType(), size))
        return builder.bitcast(room, ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(n), codegen
