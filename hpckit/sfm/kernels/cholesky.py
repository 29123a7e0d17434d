"""Sparse Cholesky by fronts: which order fills little, and the sums that make a front.

A graph is a matrix of bits: bit u of row v says that v and u are joined (64 to a word). Nodes leave
one after the other; what a node is joined to at that moment is its column of the factor, and
becomes a clique (George & Liu, "The evolution of the minimum degree ordering algorithm", SIAM
Review 31, 1989). Bits are exact and cost n/64 words for each neighbour.
"""

from __future__ import annotations

from numba import njit, types

from hpckit.native import export


@njit(inline="always")
def _ones(x):
    """How many bits are set."""
    x = x - ((x >> types.uint64(1)) & types.uint64(0x5555555555555555))
    x = (x & types.uint64(0x3333333333333333)) + (
        (x >> types.uint64(2)) & types.uint64(0x3333333333333333)
    )
    x = (x + (x >> types.uint64(4))) & types.uint64(0x0F0F0F0F0F0F0F0F)
    return types.int64((x * types.uint64(0x0101010101010101)) >> types.uint64(56))


@njit(inline="always")
def _lowest(x):
    """Place of the lowest bit that is set, of a word that has one."""
    return _ones((x & (~x + types.uint64(1))) - types.uint64(1))


@njit
def _least(degree, n):
    """The first of those with the fewest neighbours that still are there (degree >= 0)."""
    best = -1
    for v in range(n):
        if degree[v] >= 0 and (best < 0 or degree[v] < degree[best]):
            best = v
    return best


@njit
def _join(bits, words, u, v):
    """Add the neighbours of v to those of u, but for the two themselves; how many u has now."""
    to, source = u * words, v * words
    for w in range(words):
        bits[to + w] |= bits[source + w]
    bits[to + (u >> 6)] &= ~(types.uint64(1) << types.uint64(u & 63))
    bits[to + (v >> 6)] &= ~(types.uint64(1) << types.uint64(v & 63))
    count = 0
    for w in range(words):
        count += _ones(bits[to + w])
    return count


@export("void(i8, u8*, i8, i8*, i8*, i8*, i8*)")
def eliminate(n, bits, chosen, size, order, degree, weight):
    """Take the nodes of a graph out, in `order` (chosen = 1) or those of least degree first.

    bits : (n, ceil(n/64)); symmetric, nothing on the diagonal; becomes the columns of the factor
    size : scalars in each node
    order : out (in, if chosen): which node leaves as the k-th
    degree : scratch, n
    weight : out: scalars in the column of node v, without its own
    """
    words = (n + 63) >> 6
    for v in range(n):
        degree[v] = 0
        for w in range(words):
            degree[v] += _ones(bits[v * words + w])
    for k in range(n):
        v = order[k] if chosen else _least(degree, n)
        order[k] = v
        degree[v] = -1
        weight[v] = 0
        for w in range(words):
            left = bits[v * words + w]
            while left != types.uint64(0):
                u = (w << 6) + _lowest(left)
                left &= left - types.uint64(1)
                weight[v] += size[u]
                degree[u] = _join(bits, words, u, v)


@njit(inline="always")
def _add(diagonal, below, update, k, m, row, column, value):
    """Add to the lower half of a front, which lies in three pieces, each stored by columns."""
    if row < column:
        row, column = column, row
    if row < k:
        diagonal[column * k + row] += value
    elif column < k:
        below[column * (m - k) + row - k] += value
    else:
        update[(column - k) * (m - k) + row - k] += value


@export("void(i8, i8, i8*, i8, i8*, i8, i8*, i8*, i8, i8*, f8*, f8*, f8*, f8*)")
def start_front(
    k, first, rows, m, local, count, pairs, ends, D, position, blocks, diagonal, below, update
):
    """Zero a front and add what the matrix of blocks has in its columns.

    k, m : its columns, which are the scalars from `first` on, and its rows: these, then `rows`
    local : out: row in the front of each scalar of the matrix that has one
    pairs : the `count` block pairs that have something there
    ends : kept blocks of each pair; position : (kept, D), scalar of each column or -1
    blocks : (all pairs, D, D)
    """
    below_count = (m - k) * k
    for i in range(k):
        local[first + i] = i
    for i in range(m - k):
        local[rows[i]] = k + i
    for i in range(k * k):
        diagonal[i] = 0.0
    for i in range(below_count):
        below[i] = 0.0
    for i in range((m - k) * (m - k)):
        update[i] = 0.0
    for p in range(count):
        pair = pairs[p]
        i, j = ends[2 * pair] * D, ends[2 * pair + 1] * D
        for a in range(D):
            row = position[i + a]
            if row < 0:
                continue
            for b in range(a + 1 if i == j else D):
                column = position[j + b]
                least = min(row, column)
                if column < 0 or least < first or least >= first + k:
                    continue
                value = blocks[(pair * D + a) * D + b]
                if row == column and i != j:  # a shared scalar: the pair's transpose is there too
                    value *= 2.0
                _add(diagonal, below, update, k, m, local[row], local[column], value)


@export("void(i8, i8, i8*, i8*, i8, f8*, f8*, f8*, f8*)")
def add_child(k, m, local, rows, count, child, diagonal, below, update):
    """Add to a front the `count` x `count` update of a child, whose rows are the scalars `rows`."""
    for c in range(count):
        column = local[rows[c]]
        for r in range(c, count):
            _add(diagonal, below, update, k, m, local[rows[r]], column, child[c * count + r])
