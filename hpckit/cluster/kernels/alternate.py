"""Voronoi iteration: which member of each cluster serves all of it at the least cost."""

from __future__ import annotations

from numba import types

from hpckit.native import export


@export("void(f4*, i8, i8*, i8*, i8, i4*, i8*, i8*, f8*, f8*, i8*)")
def centre(rows, stride, places, candidates, count, near, members, starts, w, least, best):
    """Candidates that serve all of cluster i below least[i]: that cost, and which as best[i].

    rows[places[c]*stride + o] = d of candidates[c]; members[starts[i]:starts[i + 1]] are the
    objects of cluster i.
    """
    for c in range(count):
        j, start = candidates[c], places[c] * stride
        slot, cost = near[j], 0.0
        for member in range(starts[slot], starts[slot + 1]):
            o = members[member]
            cost += w[o] * types.float64(rows[start + o])
        if cost < least[slot]:
            least[slot], best[slot] = cost, j
