"""Union-find over keypoints, and which tracks to take where not all can be.

The root of a set is its smallest member, so that sets have the same names whatever the order in
which they were united.
"""

from __future__ import annotations

from numba import njit

from hpckit.native import export


@njit
def _root(parent, i):
    """The root of the set that i is in; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit
def _unite(parent, i, j):
    """Make one set of those of i and j; whether they were two."""
    a, b = _root(parent, i), _root(parent, j)
    if a == b:
        return 0
    parent[max(a, b)] = min(a, b)
    return 1


@export("i8(i8, i8*, i8*)")
def unite(matches, pairs, parent):
    """Unite pairs[m, 0] with pairs[m, 1]; how many sets went."""
    count = 0
    for m in range(matches):
        count += _unite(parent, pairs[2 * m], pairs[2 * m + 1])
    return count


@export("i8(i8, i8*, i8*)")
def hook(n, label, parent):
    """Unite i with label[i] for all i; how many sets went."""
    count = 0
    for i in range(n):
        count += _unite(parent, i, label[i])
    return count


@export("void(i8, i8*)")
def flatten(n, parent):
    """Have all point to their roots. Parents are never above their children, so one pass does."""
    for i in range(n):
        parent[i] = parent[parent[i]]


@export("i8(i8, i8*, i8*, i4*, i8*, i8*, i8)")
def cover(tracks, order, start, image, seen, chosen, most):
    """Choose at most `most` tracks so that all images see many; how many it are.

    In rounds with quotas 1, 2, 4, ...: tracks are visited in `order`, and taken where an image
    sees fewer chosen ones than the quota. chosen and seen (per image) are 0 before.
    """
    taken, quota = 0, 1
    while taken < min(most, tracks):
        for k in range(tracks):
            t = order[k]
            if chosen[t] == 0 and taken < most:
                poor = False
                for o in range(start[t], start[t + 1]):
                    poor = poor or seen[image[o]] < quota
                if poor:
                    for o in range(start[t], start[t + 1]):
                        seen[image[o]] += 1
                    chosen[t] = 1
                    taken += 1
        quota *= 2
    return taken
