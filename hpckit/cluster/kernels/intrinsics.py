"""What numba has no words for, written in LLVM's."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64  # objects per compare mask
TILE = 64


@intrinsic
def bits(typing, x):
    """The bits of a float64: in the order of the values where they are not negative."""
    return types.uint64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def value(typing, bits):
    """The float64 of these bits."""
    return types.float64(types.uint64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


@intrinsic
def scratch(typing, like):
    """Room for a tile of the type that `like` points to, on the stack."""

    def codegen(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=TILE * TILE)

    return like(like), codegen


@intrinsic
def transpose(typing, tile, ticks, start, stride):
    """ticks[start + i*stride + j] = tile[j*TILE + i] for i, j < 16: blocks of 8, 4, 2 and 1 change places."""

    def codegen(context, builder, signature, arguments):
        tile, ticks, start, stride = arguments
        word, line = ir.IntType(64), ir.VectorType(ir.FloatType(), 16).as_pointer()

        def place(base, index):
            return builder.bitcast(builder.gep(base, [index]), line)

        rows = [builder.load(place(tile, word(j * TILE)), align=4) for j in range(16)]
        for s in (8, 4, 2, 1):
            low = [lane if not lane & s else 16 + lane - s for lane in range(16)]
            high = [lane + s if not lane & s else 16 + lane for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 16), lanes) for lanes in (low, high)]
            for i in range(16):
                if not i & s:
                    pair = rows[i], rows[i + s]
                    rows[i], rows[i + s] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        for i, row in enumerate(rows):
            builder.store(row, place(ticks, builder.add(start, builder.mul(stride, word(i)))), align=4)
        return context.get_dummy_value()

    return types.none(tile, ticks, types.int64, types.int64), codegen


@intrinsic
def pointer_to(typing, pointer, index):
    """The address of pointer[index], as a pointer."""
    return pointer(pointer, types.int64), lambda _, builder, __, args: builder.gep(args[0], [args[1]])


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
def population(typing, mask):
    """How many bits are set."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.ctpop(args[0])


@intrinsic
def lowest(typing, mask):
    """The lowest bit that is set; 64 for none."""
    return types.int64(types.uint64), lambda _, builder, __, args: builder.cttz(args[0], ir.IntType(1)(0))
