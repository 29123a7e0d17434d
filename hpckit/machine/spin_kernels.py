"""Kernel source: words of memory that the ranks of a node share, and waiting for them to change.

Part of the kernel modules that import it. Addresses and words are int64; `get` and `put` count in
words.
"""

import platform

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic
def get(typing, pointer, index):
    """The word at `pointer`, `index` words on."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]), align=8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def put(typing, pointer, index, value):
    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _WORD.as_pointer())
        builder.store(arguments[2], builder.gep(pointer, [arguments[1]]), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def acquire(typing, pointer):
    """Read a counter; nothing that follows in the program is read before it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], _WORD.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def release(typing, pointer, value):
    """Write a counter; whoever reads it sees everything that precedes it in the program."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(
            arguments[1], builder.inttoptr(arguments[0], _WORD.as_pointer()), "release", 8
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _pause(typing):
    """Tell the core that it is spinning."""

    def generate(context, builder, signature, arguments):
        if platform.machine() == "x86_64":
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", fnty=function), [])
        return context.get_dummy_value()

    return types.void(), generate


_yield_core = types.ExternalFunction("sched_yield", types.int32())


@njit
def reaches(counter, value, polls, eager):
    """Poll until it reaches `value`, from `eager` polls on yielding the core; False after all."""
    for poll in range(polls):
        if acquire(counter) >= value:
            return True
        if poll < eager:
            _pause()
        else:
            _yield_core()
    return False
