"""What the reduced system does to a coarse space: a template for kept blocks of width D, eliminated
ones of width d.

A *cluster* c of kept blocks moves as one body: block k of it changes by Z_k (D x 8) times its eight
coarse unknowns (seven that there are, and one that pads). Z_c holds the Z_k of the blocks of c, and
S Z_c is wanted in the blocks k that an eliminated block joins with c:

    (S Z_c)_k = sum over observations o of k:  Jk_o' (Jk_o Z_k if k is in c)
              - Jk_o' Je_o V_e^-1 (sum over observations i of e in c: Je_i' Jk_i Z)
"""

from __future__ import annotations

from hpckit.native import export
from hpckit.sfm.kernels.cameras import OPTIONS, fast
from hpckit.sfm.kernels.stack import doubles

OPTIONS = OPTIONS
D, d = 9, 3  # constants of the template


@fast
def _moved(jacobian, o, modes, k, out):
    """out (2 x 8) = Jk_o Z_k."""
    for row in range(2):
        for m in range(8):
            out[8 * row + m] = 0.0
        for a in range(D):
            j = jacobian[(2 * o + row) * (D + d) + a]
            for m in range(8):
                out[8 * row + m] += j * modes[(k * D + a) * 8 + m]


@fast
def _spread(jacobian, o, sign, moved, out, slot):
    """out[slot] (D x 8) += sign Jk_o' moved."""
    for a in range(D):
        j0 = sign * jacobian[2 * o * (D + d) + a]
        j1 = sign * jacobian[(2 * o + 1) * (D + d) + a]
        for m in range(8):
            out[(slot * D + a) * 8 + m] += j0 * moved[m] + j1 * moved[8 + m]


@fast
def _whitened(factor, e, x, stride, at):
    """x[at + stride b] (b < d) = C_e x, with C lower and packed by rows."""
    base = e * (d * (d + 1) // 2)
    for a in range(d - 1, -1, -1):
        total = 0.0
        for b in range(a + 1):
            total += factor[base + a * (a + 1) // 2 + b] * x[at + stride * b]
        x[at + stride * a] = total


@export("void(i8, i8, i8*, i4*, f8*, f8*, f8*, i4*, i8, i4*, i8*, f8*, f8*)")
def times_coarse(
    begin, end, start, kept, jacobian, factor, modes, cluster, clusters, slot, seen, sums, out
):
    """Add what eliminated blocks begin <= e < end contribute to S Z.

    start, kept, jacobian, factor : as in `Linearisation`
    modes : (kept blocks, D, 8); cluster : (kept blocks,)
    slot : (kept blocks, clusters), which of the blocks of `out` it is
    seen : scratch, 2 clusters, of which the first half is 0; sums : scratch, (clusters, d, 8)
    out : (slots, D, 8)
    """
    moved, joined = doubles(16), doubles(16)
    for e in range(begin, end):
        met = 0
        for o in range(start[e], start[e + 1]):
            k = kept[o]
            c = cluster[k]
            _moved(jacobian, o, modes, k, moved)
            _spread(jacobian, o, 1.0, moved, out, slot[k * clusters + c])
            if seen[c] == 0:
                seen[c] = 1
                seen[clusters + met] = c
                met += 1
                for i in range(8 * d):
                    sums[8 * d * c + i] = 0.0
            for b in range(d):
                j0 = jacobian[2 * o * (D + d) + D + b]
                j1 = jacobian[(2 * o + 1) * (D + d) + D + b]
                for m in range(8):
                    sums[(c * d + b) * 8 + m] += j0 * moved[m] + j1 * moved[8 + m]
        for i in range(met):
            c = seen[clusters + i]
            seen[c] = 0
            for m in range(8):
                _whitened(factor, e, sums, 8, c * d * 8 + m)
        for o in range(start[e], start[e + 1]):
            k = kept[o]
            for row in range(2):
                for b in range(d):
                    joined[8 * row + b] = jacobian[(2 * o + row) * (D + d) + D + b]
                _whitened(factor, e, joined, 1, 8 * row)
            for i in range(met):
                c = seen[clusters + i]
                for row in range(2):
                    for m in range(8):
                        total = 0.0
                        for b in range(d):
                            total += joined[8 * row + b] * sums[(c * d + b) * 8 + m]
                        moved[8 * row + m] = total
                _spread(jacobian, o, -1.0, moved, out, slot[k * clusters + c])


@export("void(i8, f8*, f8*, f8*)")
def times(n, matrix, x, out):
    """out = matrix x, of n x n: by rows, so that all ranks round alike."""
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += matrix[i * n + j] * x[j]
        out[i] = total
