"""What numba has no words for, written in LLVM's."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64  # objects per compare mask
TILE = 64


@njit(inline="always")
def bits(x):
    """The bits of a float64: in the order of the values where they are not negative."""
    return np.float64(x).view(np.uint64)


@njit(inline="always")
def bits32(x):
    """The bits of a float32."""
    return np.float32(x).view(np.uint32)


@njit(inline="always")
def value(bits):
    """The float64 of these bits."""
    return np.uint64(bits).view(np.float64)


@njit(inline="always")
def value32(bits):
    """The float32 of these bits."""
    return np.uint32(bits).view(np.float32)


@intrinsic
def rint(typing, x):
    """The nearest whole number, halves to even."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32")
        return builder.call(function, arguments)

    return types.float32(types.float32), codegen


@intrinsic
def scratch(typing, like):
    """Room for a tile of the type that `like` points to, on the stack."""

    def codegen(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=TILE * TILE)

    return like(like), codegen


_WORD, _INT = ir.IntType(64), ir.IntType(32)
_INTS = ir.VectorType(_INT, 16)


def _line(builder, base, start, stride, i):
    """Where the 16 lanes base[start + i*stride] begin."""
    place = builder.gep(base, [builder.add(start, builder.mul(stride, _WORD(i)))])
    return builder.bitcast(place, _INTS.as_pointer())


def _transposed(builder, rows):
    """16 rows of 16 lanes: blocks of 8, 4, 2 and 1 change places."""
    for s in (8, 4, 2, 1):
        low = [lane if not lane & s else 16 + lane - s for lane in range(16)]
        high = [lane + s if not lane & s else 16 + lane for lane in range(16)]
        masks = [ir.Constant(_INTS, lanes) for lanes in (low, high)]
        for i in range(16):
            if not i & s:
                pair = rows[i], rows[i + s]
                rows[i], rows[i + s] = (builder.shuffle_vector(*pair, mask) for mask in masks)
    return rows


@intrinsic
def transpose(typing, tile, ticks, start, stride):
    """ticks[start + i*stride + j] = tile[j*TILE + i] for i, j < 16."""

    def codegen(context, builder, signature, arguments):
        tile, ticks, start, stride = arguments
        rows = [
            builder.load(_line(builder, tile, _WORD(0), _WORD(TILE), j), align=4) for j in range(16)
        ]
        for i, row in enumerate(_transposed(builder, rows)):
            builder.store(row, _line(builder, ticks, start, stride, i), align=4)
        return context.get_dummy_value()

    return types.none(tile, ticks, types.int64, types.int64), codegen


@intrinsic
def mirrored(typing, x, start, mirror, stride):
    """Largest bits of 16 x 16 float32 at x[start]; all ones if not the transpose of x[mirror]."""

    def codegen(context, builder, signature, arguments):
        x, start, mirror, stride = arguments
        here, there = (
            [builder.load(_line(builder, x, at, stride, i), align=4) for i in range(16)]
            for at in (start, mirror)
        )
        differ = top = ir.Constant(_INTS, None)
        for a, b in zip(here, _transposed(builder, there), strict=True):
            differ = builder.or_(differ, builder.xor(a, b))
            top = builder.select(builder.icmp_unsigned(">", a, top), a, top)
        kind = ir.FunctionType(_INT, [_INTS])
        largest = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.vector.reduce.umax.v16i32"
        )
        equal = builder.icmp_unsigned("==", builder.call(largest, [differ]), _INT(0))
        return builder.select(equal, builder.call(largest, [top]), _INT(2**32 - 1))

    return types.uint32(x, types.int64, types.int64, types.int64), codegen


@intrinsic
def pointer_to(typing, pointer, index):
    """The address of pointer[index], as a pointer."""
    return pointer(pointer, types.int64), lambda _, builder, __, args: builder.gep(
        args[0], [args[1]]
    )


@intrinsic
def prefetch(typing, x, i):
    """Have the cache line of x[i] fetched; there need not be one."""

    def codegen(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        builder.call(function, [place, _INT(0), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return types.none(x, types.int64), codegen


@intrinsic
def below(typing, row, limit, start, o):
    """Mask of LANES objects: bit t says row[start + o + t] < limit[o + t]."""

    def codegen(context, builder, signature, arguments):
        lanes = ir.VectorType(ir.FloatType(), LANES).as_pointer()
        row, limit, start, o = arguments
        places = builder.gep(row, [builder.add(start, o)]), builder.gep(limit, [o])
        values = [builder.load(builder.bitcast(place, lanes), align=4) for place in places]
        return builder.bitcast(builder.fcmp_ordered("<", *values), ir.IntType(64))

    return types.uint64(row, limit, types.int64, types.int64), codegen


@intrinsic
def equal(typing, values, value, o):
    """Mask of LANES objects: bit t says values[o + t] == value."""

    def codegen(context, builder, signature, arguments):
        lanes = ir.VectorType(_INT, LANES)
        values, value, o = arguments
        many = builder.insert_element(
            ir.Constant(lanes, ir.Undefined), builder.trunc(value, _INT), _INT(0)
        )
        many = builder.shuffle_vector(
            many, ir.Constant(lanes, ir.Undefined), ir.Constant(lanes, None)
        )
        place = builder.bitcast(builder.gep(values, [o]), lanes.as_pointer())
        return builder.bitcast(builder.icmp_signed("==", builder.load(place, align=4), many), _WORD)

    return types.uint64(values, types.int64, types.int64), codegen


@intrinsic
def population(typing, mask):
    """How many bits are set."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctpop(args[0])


@intrinsic
def lowest(typing, mask):
    """The lowest bit that is set; 64 for none."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.cttz(
        args[0], ir.IntType(1)(0)
    )


@intrinsic
def leading(typing, mask):
    """How many of the highest bits are not set."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctlz(
        args[0], ir.IntType(1)(0)
    )


@intrinsic
def words(typing):
    """Room for eight uint64, on the stack."""

    def codegen(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, _WORD, size=8)

    return types.CPointer(types.uint64)(), codegen
