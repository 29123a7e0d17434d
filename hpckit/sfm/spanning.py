"""A maximum spanning forest of a graph of images whose edges are distributed over ranks.

Rotations follow along it, components are told apart by it, and its connected pieces are what coarse
matrices of preconditioners are made of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.native import address


class Graph(NamedTuple):
    """This rank's pairs."""

    edges: np.ndarray  # (m, 2) int64
    relative: np.ndarray  # (m, 4) float64, of length one
    weights: np.ndarray  # (m,) float64


class Tree(NamedTuple):
    """A spanning forest of the whole graph, the same on all ranks."""

    component: np.ndarray  # (n,) int64
    order: np.ndarray  # (n,) int64: images breadth first
    above: np.ndarray  # (n,) int64: towards the root; itself for a root


def spanning(comm: MPI.Intracomm, n: int, graph: Graph) -> tuple[np.ndarray, Tree]:
    """A maximum spanning forest, and the rotations that follow from it.

    Whatever pair of a rank is not in the maximum forest of its own pairs is in none of all pairs,
    so that ranks exchange forests only.
    """
    own, parent = _forest(n, graph)
    if comm.size > 1:
        parts = comm.allgather(own)
        own, parent = _forest(n, Graph(*map(np.concatenate, zip(*parts, strict=True))))
    tree = Tree(parent, np.empty(n, np.int64), np.full(n, -1))
    q = np.empty((n, 4))
    m = len(own.edges)
    ends = own.edges.T.ravel()
    by_image = np.argsort(ends, kind="stable")
    start = np.searchsorted(ends[by_image], np.arange(n + 1))
    other = np.concatenate([own.edges[:, 1], own.edges[:, 0]])[by_image]
    edge, direction = by_image % max(m, 1), (by_image < m).astype(np.int64)
    arrays = start, other, edge, direction, own.relative, tree.order, tree.above, q
    _kernels().spread(n, *map(address, arrays))
    return q, tree


def _forest(n: int, graph: Graph) -> tuple[Graph, np.ndarray]:
    """The edges of a maximum spanning forest, and the first image of each one's component."""
    m = len(graph.edges)
    order = np.lexsort((graph.edges[:, 1], graph.edges[:, 0], -graph.weights))
    parent, taken = np.arange(n), np.empty(n, np.int64)
    count = _kernels().forest(m, *map(address, (graph.edges, order, parent, taken)))
    while (parent[parent] != parent).any():
        parent = parent[parent]
    taken = taken[:count]
    return Graph(graph.edges[taken], graph.relative[taken], graph.weights[taken]), parent


def pieces_of(tree: Tree, most: int, least_size: int = 1) -> tuple[np.ndarray, int]:
    """The connected piece of the forest that each image is in (-1: none), and how many there are.

    most : pieces, about, of no fewer than `least_size` images each
    """
    n = len(tree.order)
    size = max(least_size, -(-2 * n // most)) if n > most else least_size
    count, cluster = np.empty((2, n), np.int64)
    arrays = tree.order, tree.above
    pieces = _kernels().clusters(n, *map(address, arrays), size, address(count), address(cluster))
    return cluster, int(pieces)


def first_pieces(cluster: np.ndarray, component: np.ndarray) -> np.ndarray:
    """One piece of each component that has any."""
    member = np.flatnonzero(cluster >= 0)
    _, first = np.unique(component[member], return_index=True)
    return cluster[member[first]]


def _kernels():
    return native.load("hpckit.sfm.kernels.averaging")
