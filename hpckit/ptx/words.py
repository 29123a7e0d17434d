"""Kernel source: loads and stores of words at addresses, as LLVM makes them.

Part of the targets `hpckit.ptx.on_cpu` and `hpckit.ptx.on_cuda`, which differ in how an address
becomes a pointer.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT, _LONG = ir.IntType(32), ir.IntType(64)
_PAIR = ir.VectorType(_LONG, 2)


def word(kind, pointer, target):
    """The functions `load(address)` and `store(address, value)` of a Numba type.

    pointer : builder, address as an LLVM integer, LLVM type -> LLVM pointer to the word, which is
        aligned to its size.
    target : Numba's name of it
    """
    nbytes = kind.bitwidth // 8

    @intrinsic(target=target)
    def load(typing, address):
        def generate(context, builder, signature, arguments):
            at = pointer(builder, arguments[0], context.get_data_type(kind))
            return builder.load(at, align=nbytes)

        return kind(types.int64), generate

    @intrinsic(target=target)
    def store(typing, address, value):
        def generate(context, builder, signature, arguments):
            at = pointer(builder, arguments[0], context.get_data_type(kind))
            builder.store(arguments[1], at, align=nbytes)
            return context.get_dummy_value()

        return types.void(types.int64, kind), generate

    return load, store


def pair(pointer, target):
    """The same of 16 bytes, whose value is a pair of integers."""
    both = types.UniTuple(types.uint64, 2)

    @intrinsic(target=target)
    def load(typing, address):
        def generate(context, builder, signature, arguments):
            words = builder.load(pointer(builder, arguments[0], _PAIR), align=16)
            halves = [builder.extract_element(words, _INT(i)) for i in (0, 1)]
            return context.make_tuple(builder, both, halves)

        return both(types.int64), generate

    @intrinsic(target=target)
    def store(typing, address, value):
        def generate(context, builder, signature, arguments):
            words = ir.Constant(_PAIR, ir.Undefined)
            for i in (0, 1):
                half = builder.extract_value(arguments[1], i)
                words = builder.insert_element(words, half, _INT(i))
            builder.store(words, pointer(builder, arguments[0], _PAIR), align=16)
            return context.get_dummy_value()

        return types.void(types.int64, both), generate

    return load, store


def division(target):
    """The function `divide(n, d, multiplier, shift)`: quotient and rest, by no division at all.

    The quotient is `(2 * n * multiplier >> 32) >> shift`; all are 32-bit integers without sign, and
    so is 2 * n.
    """
    both = types.UniTuple(types.uint32, 2)

    @intrinsic(target=target)
    def divide(typing, n, d, multiplier, shift):
        def generate(context, builder, signature, arguments):
            n, d, multiplier, shift = arguments
            twice = builder.zext(builder.shl(n, _INT(1)), _LONG)
            product = builder.mul(twice, builder.zext(multiplier, _LONG))
            high = builder.trunc(builder.lshr(product, _LONG(32)), _INT)
            quotient = builder.lshr(high, shift)
            rest = builder.sub(n, builder.mul(quotient, d))
            return context.make_tuple(builder, both, [quotient, rest])

        return both(*[types.uint32] * 4), generate

    return divide
