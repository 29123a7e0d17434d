"""Small dense blocks as straight lines of vector instructions: all sizes are constants."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_DOUBLE, _INT = ir.DoubleType(), ir.IntType(32)


def _widths(n):
    """Vectors that a row of `n` is cut into: (first, lanes)."""
    at, cuts = 0, []
    for lanes in (8, 4, 2, 1):
        while n - at >= lanes:
            cuts.append((at, lanes))
            at += lanes
    return cuts


def _place(builder, base, at, offset, lanes):
    """Where `lanes` numbers begin."""
    place = builder.gep(base, [builder.add(at, ir.Constant(at.type, offset))])
    return builder.bitcast(place, ir.VectorType(_DOUBLE, lanes).as_pointer())


def _load(builder, base, at, offset, lanes):
    value = builder.load(_place(builder, base, at, offset, lanes))
    value.align = 8
    return value


def _spread(builder, value, lanes):
    """All lanes this number."""
    kind = ir.VectorType(_DOUBLE, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INT(0))
    zeros = ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


@intrinsic(prefer_literal=True)
def rank_update(typing, n, less, more, out, o, a, i, b, j):
    """out[o:][row, column] += sum over k of a[i:][k, row] b[j:][k, column], k < less with minus.

    All three by rows: out of n x n, a and b of (less + more) x n; `out` overlaps neither.
    """
    n_, less_ = n.literal_value, less.literal_value
    r_ = less_ + more.literal_value
    flags = ("contract",)

    def codegen(context, builder, signature, arguments):
        *_, out, o, a, i, b, j = arguments
        cuts = _widths(n_)
        right = {
            (k, at): _load(builder, b, j, k * n_ + at, lanes)
            for k in range(r_)
            for at, lanes in cuts
        }
        for row in range(n_):
            left = []
            for k in range(r_):
                number = builder.load(
                    builder.gep(a, [builder.add(i, ir.Constant(i.type, k * n_ + row))])
                )
                left.append(builder.fneg(number) if k < less_ else number)
            for at, lanes in cuts:
                total = _load(builder, out, o, row * n_ + at, lanes)
                for k in range(r_):
                    product = builder.fmul(
                        _spread(builder, left[k], lanes), right[k, at], flags=flags
                    )
                    total = builder.fadd(total, product, flags=flags)
                place = _place(builder, out, o, row * n_ + at, lanes)
                builder.store(total, place).align = 8
        return context.get_dummy_value()

    return types.void(n, less, more, out, o, a, i, b, j), codegen
