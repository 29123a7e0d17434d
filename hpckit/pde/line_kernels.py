"""Kernel source: lines of cells, computed in the first-level cache and moved out.

How a sweep reaches memory speed: a piece of a row is computed into a scratch line of the
first-level cache (where LLVM sees that nothing overlaps, and vectorises), and then moved out by
whole cache lines. Fields larger than the caches are moved past them (`stream`), which saves reading
every line before it is overwritten; and while a line goes out, the line needed a few kilobytes
later is fetched, because the hardware's prefetcher stops at each page.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_LINE = 64  # bytes of a cache line, and of the widest vector
CHUNK = 512  # elements of the scratch line
_AHEAD = 8192  # bytes by which the prefetch runs ahead


@intrinsic
def scratch(typing, like):
    """Room for CHUNK elements of the type that `like` points to, on the stack."""

    def codegen(context, builder, signature, arguments):
        room = cgutils.alloca_once(builder, context.get_value_type(like.dtype), size=CHUNK)
        room.align = _LINE
        return room

    return like(like), codegen


@intrinsic
def _lanes(typing, pointer):
    """Elements in a cache line."""
    lanes = _LINE * 8 // pointer.dtype.bitwidth
    return types.int64(pointer), lambda context, *_: context.get_constant(types.int64, lanes)


@intrinsic
def _to_line(typing, pointer, index):
    """Elements from pointer[index] to the next start of a cache line."""

    def codegen(context, builder, signature, arguments):
        word = ir.IntType(64)
        address = builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), word)
        return builder.udiv(
            builder.and_(builder.neg(address), word(_LINE - 1)), word(pointer.dtype.bitwidth // 8)
        )

    return types.int64(pointer, types.int64), codegen


@intrinsic
def _stream_line(typing, target, t, source, s):
    """Move one cache line past the caches; &target[t] is aligned to the line."""

    def codegen(context, builder, signature, arguments):
        line = ir.VectorType(ir.IntType(64), _LINE // 8).as_pointer()
        into = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), line)
        value = builder.load(builder.bitcast(builder.gep(arguments[2], [arguments[3]]), line))
        value.align = 4
        store = builder.store(value, into)
        store.align = _LINE
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64), codegen


@intrinsic
def _prefetch(typing, pointer, index):
    """Ask for the line _AHEAD bytes after pointer[index]; past the array's end it does nothing."""

    def codegen(context, builder, signature, arguments):
        word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        ahead = ir.IntType(64)(_AHEAD * 8 // pointer.dtype.bitwidth)
        place = builder.bitcast(builder.gep(arguments[0], [builder.add(arguments[1], ahead)]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, word(0), word(3), word(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.none(pointer, types.int64), codegen


@intrinsic
def fence(typing):
    """Make streamed lines visible to other threads and processes before whatever follows."""

    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@njit(inline="always")
def put(new, row, line, n, stream, fresh, lead):
    """new[row : row+n] = line[:n], prefetching the array `fresh` around fresh[row + lead]."""
    lanes = _lanes(new)
    k = 0
    if stream:
        head = _to_line(new, row)
        head = head if head < n else n
        while k < head:
            new[row + k] = line[k]
            k += 1
        while k + lanes <= n:
            _stream_line(new, row + k, line, k)
            _prefetch(fresh, row + k + lead)
            k += lanes
    while k < n:
        new[row + k] = line[k]
        k += 1


@intrinsic
def number(typing, pointer, value):
    """`value` in the precision of what `pointer` points to: float32 kernels stay in float32."""

    def codegen(context, builder, signature, arguments):
        return context.cast(builder, arguments[1], signature.args[1], signature.return_type)

    return pointer.dtype(pointer, value), codegen
