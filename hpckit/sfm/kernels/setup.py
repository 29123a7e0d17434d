"""What is prepared once for a bundle adjustment: order, pattern, and the map of shared columns."""

from __future__ import annotations

from hpckit.native import export
from hpckit.sfm.kernels.cameras import OPTIONS, fast

OPTIONS = OPTIONS


@export("i8(i8, i8*, i4*, i4*)")
def order(blocks, start, kept, place):
    """Places of observations in ascending order of `kept` within each block, stable.

    Returns how many would move.
    """
    moved = 0
    for e in range(blocks):
        begin = start[e]
        for o in range(begin, start[e + 1]):
            k, at = kept[o], o
            while at > begin and kept[place[at - 1]] > k:
                place[at] = place[at - 1]
                at -= 1
            place[at] = o
            moved += at != o
    return moved


@fast
def find(key, keys, mask):
    """Where this key is in the table, or would be."""
    at = (key * 0x1E3779B97F4A7C15 >> 20) & mask
    while keys[at] != key and keys[at] >= 0:
        at = (at + 1) & mask
    return at


@export("i8(i8, i8*, i4*, i8, i8*, i8)")
def pairs(blocks, start, kept, n, keys, mask):
    """Keys i * n + j of the pairs i <= j that blocks join, to a table; -1 where it is too small."""
    count = 0
    for e in range(blocks):
        for o in range(start[e], start[e + 1]):
            for other in range(start[e], o + 1):
                key = n * kept[other] + kept[o]
                at = find(key, keys, mask)
                if keys[at] < 0:
                    keys[at] = key
                    count += 1
                    if 2 * count > mask:
                        return -1
    return count


@export("void(i8, i8*, i8*, i4*, i8)")
def index(n, sorted_keys, keys, values, mask):
    """A table of the places of these keys."""
    for i in range(n):
        at = find(sorted_keys[i], keys, mask)
        keys[at] = sorted_keys[i]
        values[at] = i


@export("void(i8, i4*, f8*, f8*)")
def expand(n, columns, x, out):
    """out[i] = x[columns[i]], 0 where that is -1."""
    for i in range(n):
        c = columns[i]
        out[i] = x[c] if c >= 0 else 0.0


@export("void(i8, i4*, f8*, f8*)")
def collect(n, columns, blocks, out):
    """out[columns[i]] += blocks[i]."""
    for i in range(n):
        c = columns[i]
        if c >= 0:
            out[c] += blocks[i]


@export("void(i8, i4*, i4*, i8, f8*, i8, f8*)")
def scatter(n, pairs, columns, width, blocks, size, out):
    """The lower triangle of P'S P, by columns: out[column * size + row], row >= column."""
    for p in range(n):
        i, j = pairs[2 * p], pairs[2 * p + 1]
        for a in range(width):
            row = columns[width * i + a]
            for b in range(width):
                column = columns[width * j + b]
                if row < 0 or column < 0 or (i == j and row < column):
                    continue
                value = blocks[width * (width * p + a) + b]
                if i != j and row == column:
                    value *= 2
                out[size * min(row, column) + max(row, column)] += value


@export("void(i8, i4*, i8, f8*, i4*, i4*, i8, f8*)")
def gather(n, columns, width, blocks, group, first, widest, out):
    """Diagonal blocks of P'S P by groups of unknowns: out (groups, widest, widest).

    group : of each unknown; first : unknown of each group
    """
    for k in range(n):
        for a in range(width):
            row = columns[width * k + a]
            for b in range(width):
                column = columns[width * k + b]
                if row >= 0 and column >= 0 and group[row] == group[column]:
                    g = group[row]
                    place = widest * (widest * g + row - first[g]) + column - first[g]
                    out[place] += blocks[width * (width * k + a) + b]


@export("f8(i8, f8*, f8*)")
def dot(n, a, b):
    """Sum of a[i] b[i], in an order that depends on `n` alone: all ranks get the same bits."""
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@export("void(i8, i4*, i8, i8, f8*, f8*, f8*)")
def apply(groups, first, size, widest, inverse, r, out):
    """out = the block diagonal matrix times r: group g has unknowns first[g]:first[g + 1]."""
    for g in range(groups):
        begin = first[g]
        width = (first[g + 1] if g + 1 < groups else size) - begin
        for a in range(width):
            total = 0.0
            row = widest * (widest * g + a)
            for b in range(width):
                total += inverse[row + b] * r[begin + b]
            out[begin + a] = total
