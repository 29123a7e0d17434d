"""Cut the graph of who sees the same into clusters of neighbours."""

from __future__ import annotations

import numpy as np


def clusters(pairs: np.ndarray, n: int, size: int) -> np.ndarray:
    """Cluster of each of n blocks: (n,) int32, of `size` blocks or a few less.

    pairs : (m, 2) int, blocks that are joined

    Each part is halved between those near one of its ends and those near the other, as breadth
    first search from an end counts, until it is small: a loop becomes arcs, a city its quarters. ::

        clusters(np.array([[0, 1], [1, 2], [2, 3]]), 4, 2)  # [0, 0, 1, 1] or [1, 1, 0, 0]
    """
    from scipy.sparse import csr_array

    i, j = pairs.T
    once = (np.ones(2 * len(pairs), np.int8), (np.concatenate([i, j]), np.concatenate([j, i])))
    graph = csr_array(once, shape=(n, n))
    found = np.empty(n, np.int32)
    parts = [np.arange(n)]
    count = 0
    while parts:
        part = parts.pop()
        if len(part) <= size:
            found[part] = count
            count += 1
        else:
            order = part[_along(graph[part][:, part])]
            parts += [order[len(part) // 2 :], order[: len(part) // 2]]
    return found


def _along(graph) -> np.ndarray:
    """All nodes by their distance from one at an end; one component after the other."""
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    count, component = connected_components(graph, directed=False)
    orders = []
    for c in range(count):
        start = int(np.flatnonzero(component == c)[0])
        for _ in range(2):  # the last node that is met is at an end
            start = int(breadth_first_order(graph, start, False, False)[-1])
        orders.append(breadth_first_order(graph, start, False, False))
    return np.concatenate(orders)
