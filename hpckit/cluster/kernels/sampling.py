"""What each object of a batch stands for."""

from __future__ import annotations

from hpckit.native import export


@export("void(i4*, i8, i8*, i8, i8, f8*, f8*)")
def nearest(rows, stride, places, count, n, w, shares):
    """Add each candidate's weight to the share of its nearest of n objects, the lowest of equals.

    rows[places[c]*stride + o] = d of candidate c, which weighs w[c]; as the bits of a float32,
    which have the order of values that are not negative, and whose least is found by vectors.
    """
    for c in range(count):
        start = places[c] * stride
        least = rows[start]
        for o in range(1, n):
            d = rows[start + o]
            least = d if d < least else least
        o = 0
        while rows[start + o] != least:
            o += 1
        shares[o] += w[c]
