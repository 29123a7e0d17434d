"""Elimination of one side of the normal equations, block by block: a template.

Symbols as in `hpckit.sfm.bundle.system`: J (n, 2, D + d) holds Jk and Je of each observation, C the
packed lower inverse of the Cholesky factor of V + damping, so that (V + damping)^-1 = C'C.
"""

from __future__ import annotations

import math

from hpckit.native import export
from hpckit.sfm.kernels.blocks import rank_update
from hpckit.sfm.kernels.cameras import OPTIONS, fast
from hpckit.sfm.kernels.stack import doubles

OPTIONS = OPTIONS
D, d = 9, 3  # constants of the template
LEAST, MOST = 1e-6, 1e32  # of a diagonal element that damps, as in Ceres


@export("i8(i8, i8, f8*, f8, f8*)")
def factor(first, last, v_blocks, radius, c_blocks):
    """C of blocks first:last, damped by their diagonals / radius; how many are not positive."""
    packed = d * (d + 1) // 2
    bad = 0
    c = doubles(171)
    for e in range(first, last):
        v = packed * e
        row = 0
        for a in range(d):  # the Cholesky factor, its diagonal inverted
            other = 0
            for b in range(a + 1):
                total = v_blocks[v + row + b]
                if a == b:
                    total += min(max(total, LEAST), MOST) / radius
                for k in range(b):
                    total -= c[row + k] * c[other + k]
                if a == b:
                    if not total > 0:
                        bad += 1
                        total = 1.0
                    c[row + a] = 1 / math.sqrt(total)
                else:
                    c[row + b] = total * c[other + b]
                other += b + 1
            row += a + 1
        row = 0
        for a in range(d):  # its inverse, row by row: C_ab = -1/L_aa sum over k of L_ak C_kb
            scale = c[row + a]
            for b in range(a):
                total = 0.0
                other = b * (b + 1) // 2
                for k in range(b, a):
                    total += c[row + k] * c_blocks[v + other + b]
                    other += k + 1
                c_blocks[v + row + b] = -scale * total
            c_blocks[v + row + a] = scale
            row += a + 1
    return bad


@fast
def solve_block(c_blocks, c, w, z):
    """z = C'C w."""
    t = doubles(18)
    row = 0
    for a in range(d):
        t[a] = 0.0
        for b in range(a + 1):
            t[a] += c_blocks[c + row + b] * w[b]
        row += a + 1
    for b in range(d):
        z[b] = 0.0
    row = 0
    for a in range(d):
        for b in range(a + 1):
            z[b] += c_blocks[c + row + b] * t[a]
        row += a + 1


@export("void(i8, i8, i8*, i4*, f8*, f8*, f8*, f8*)")
def reduce_gradient(first, last, start, kept, jacobian, c_blocks, g_eliminated, out):
    """out += W V^-1 g_eliminated."""
    w, packed = D + d, d * (d + 1) // 2
    z, g = doubles(18), doubles(18)
    for e in range(first, last):
        for a in range(d):
            g[a] = g_eliminated[d * e + a]
        solve_block(c_blocks, packed * e, g, z)
        for o in range(start[e], start[e + 1]):
            j, n = 2 * w * o, D * kept[o]
            u, v = 0.0, 0.0
            for a in range(d):
                u += jacobian[j + D + a] * z[a]
                v += jacobian[j + w + D + a] * z[a]
            for a in range(D):
                out[n + a] += jacobian[j + a] * u + jacobian[j + w + a] * v


@fast
def half(jacobian, j, c_blocks, c, y, at):
    """The rows of C W', d x D, to y[at:]: S gets - their products."""
    w = D + d
    je = doubles(36)
    row = 0
    for a in range(d):  # C Je' first
        u, v = 0.0, 0.0
        for b in range(a + 1):
            u += c_blocks[c + row + b] * jacobian[j + D + b]
            v += c_blocks[c + row + b] * jacobian[j + w + D + b]
        je[2 * a], je[2 * a + 1] = u, v
        row += a + 1
    for a in range(d):
        for b in range(D):
            y[at + D * a + b] = je[2 * a] * jacobian[j + b] + je[2 * a + 1] * jacobian[j + w + b]


@fast
def rows(jacobian, j, y, at):
    """Jk, 2 x D, to y[at:]."""
    for a in range(D):
        y[at + a] = jacobian[j + a]
        y[at + D + a] = jacobian[j + D + d + a]


@export("void(i8, i8, i8*, i4*, f8*, f8*, f8*)")
def diagonal(first, last, start, kept, jacobian, c_blocks, out):
    """out (blocks, D, D) += Jk'Jk - W V^-1 W' of each observation alone."""
    w, packed = D + d, d * (d + 1) // 2
    y = doubles(360)
    for e in range(first, last):
        for o in range(start[e], start[e + 1]):
            j, n = 2 * w * o, D * D * kept[o]
            half(jacobian, j, c_blocks, packed * e, y, 0)
            rows(jacobian, j, y, d * D)
            rank_update(D, d, 2, out, n, y, 0, y, 0)


@fast
def slot(i, j, n, keys, values, mask):
    """Place of the pair i <= j in the pattern: of all pairs if `mask` is 0, else of a table."""
    if mask == 0:
        return i * n - i * (i - 1) // 2 + j - i
    key = i * n + j
    at = (key * 0x1E3779B97F4A7C15 >> 20) & mask
    while keys[at] != key:
        at = (at + 1) & mask
    return values[at]


@export("void(i8, i8, i8*, i4*, f8*, f8*, i8, i8*, i4*, i8, f8*, f8*)")
def assemble(first, last, start, kept, jacobian, c_blocks, n, keys, values, mask, scratch, out):
    """out (pairs, D, D) += the blocks of S; scratch has (d + 2) D numbers per observation."""
    w, packed = D + d, d * (d + 1) // 2
    size = (d + 2) * D
    for e in range(first, last):
        begin, end = start[e], start[e + 1]
        for o in range(begin, end):
            j = 2 * w * o
            at = size * (o - begin)
            half(jacobian, j, c_blocks, packed * e, scratch, at)
            rows(jacobian, j, scratch, at + d * D)
            i = kept[o]
            place = D * D * slot(i, i, n, keys, values, mask)
            rank_update(D, d, 2, out, place, scratch, at, scratch, at)
            for other in range(begin, o):
                k, there = kept[other], size * (other - begin)
                place = D * D * slot(k, i, n, keys, values, mask)
                rank_update(D, d, 0, out, place, scratch, there, scratch, at)
                if k == i:  # the block sees it twice: the other half is in the same block
                    rank_update(D, d, 0, out, place, scratch, at, scratch, there)


@export("void(i8, i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*)")
def multiply(first, last, start, kept, jacobian, c_blocks, x, scratch, out):
    """out += (U - W V^-1 W') x; scratch has 2 numbers per observation of a block."""
    w, packed = D + d, d * (d + 1) // 2
    t, z = doubles(18), doubles(18)
    for e in range(first, last):
        begin, end = start[e], start[e + 1]
        for a in range(d):
            t[a] = 0.0
        for o in range(begin, end):
            j, n = 2 * w * o, D * kept[o]
            u, v = 0.0, 0.0
            for a in range(D):
                u += jacobian[j + a] * x[n + a]
                v += jacobian[j + w + a] * x[n + a]
            scratch[2 * (o - begin)], scratch[2 * (o - begin) + 1] = u, v
            for a in range(d):
                t[a] += jacobian[j + D + a] * u + jacobian[j + w + D + a] * v
        solve_block(c_blocks, packed * e, t, z)
        for o in range(begin, end):
            j, n = 2 * w * o, D * kept[o]
            u, v = scratch[2 * (o - begin)], scratch[2 * (o - begin) + 1]
            for a in range(d):
                u -= jacobian[j + D + a] * z[a]
                v -= jacobian[j + w + D + a] * z[a]
            for a in range(D):
                out[n + a] += jacobian[j + a] * u + jacobian[j + w + a] * v


@export("f8(i8, i8, i8*, i4*, f8*, f8*, f8*, f8*, f8*, f8*, f8*)")
def substitute(
    first, last, start, kept, jacobian, residual, c_blocks, g_eliminated, x, scratch, step
):
    """The eliminated step V^-1 (-g - W'x), and by how much the linear model lowers the cost."""
    w, packed = D + d, d * (d + 1) // 2
    t, z = doubles(18), doubles(18)
    total = 0.0
    for e in range(first, last):
        begin, end = start[e], start[e + 1]
        for a in range(d):
            t[a] = -g_eliminated[d * e + a]
        for o in range(begin, end):
            j, n = 2 * w * o, D * kept[o]
            u, v = 0.0, 0.0
            for a in range(D):
                u += jacobian[j + a] * x[n + a]
                v += jacobian[j + w + a] * x[n + a]
            scratch[2 * (o - begin)], scratch[2 * (o - begin) + 1] = u, v
            for a in range(d):
                t[a] -= jacobian[j + D + a] * u + jacobian[j + w + D + a] * v
        solve_block(c_blocks, packed * e, t, z)
        for a in range(d):
            step[d * e + a] = z[a]
        for o in range(begin, end):
            j = 2 * w * o
            u, v = scratch[2 * (o - begin)], scratch[2 * (o - begin) + 1]
            for a in range(d):
                u += jacobian[j + D + a] * z[a]
                v += jacobian[j + w + D + a] * z[a]
            total -= u * (residual[2 * o] + 0.5 * u) + v * (residual[2 * o + 1] + 0.5 * v)
    return total


@export("void(i8, i8*, f8*, f8*, f8*, f8*)")
def hold(blocks, start, free, jacobian, v_blocks, g_eliminated):
    """Clear what belongs to eliminated columns that are fixed: free (blocks, d) is 0 or 1."""
    w, packed = D + d, d * (d + 1) // 2
    for e in range(blocks):
        row = packed * e
        for a in range(d):
            g_eliminated[d * e + a] *= free[d * e + a]
            for b in range(a + 1):
                v_blocks[row + b] *= free[d * e + a] * free[d * e + b]
            row += a + 1
        for o in range(start[e], start[e + 1]):
            for a in range(d):
                jacobian[2 * w * o + D + a] *= free[d * e + a]
                jacobian[2 * w * o + w + D + a] *= free[d * e + a]
