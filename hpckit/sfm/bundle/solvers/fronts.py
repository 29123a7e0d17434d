"""Which scalars of the reduced system are eliminated together, and in which order: symbolic only.

Scalars that the same kept blocks have make a *node* of a graph; an elimination order of nodes is
looked for that fills little; nodes that follow each other become a *front*, a dense matrix of some
columns of the factor, as large as the arithmetic likes it (Duff & Reid, "The multifrontal solution
of indefinite sparse symmetric linear equations", ACM TOMS 9, 1983).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hpckit import native
from hpckit.native import address

NODES = 30_000  # a graph of more is refused: bits of all pairs of nodes would take over 100 MB
_CALL = 5e-5  # seconds that a front costs however small it is
_FLOPS = 4e10  # multiplications and additions per second of large fronts ...
_HALF = 12  # ... and half of them with so many columns
_ADD = 0.7e-9  # seconds to add one number of an update to the parent


@dataclass
class Front:
    """Columns `first` to `first + k` of the factor, and the `rows` below them (positions)."""

    first: int
    k: int
    rows: np.ndarray  # int64, ascending
    children: list[int]  # fronts whose updates are added to this one

    @property
    def m(self) -> int:
        """Rows of the front, with those of its own columns."""
        return self.k + len(self.rows)


@dataclass
class Symbolic:
    """The fronts in the order of elimination, children first; what a solve needs besides values.

    position : (size,) int64, place of each scalar in the elimination
    """

    fronts: list[Front]
    position: np.ndarray

    @property
    def flops(self) -> float:
        """Multiplications and additions of one factorisation."""
        return float(sum(_flops(f.k, f.m) for f in self.fronts))

    @property
    def entries(self) -> int:
        """Numbers in the factor."""
        return sum(f.k * f.m for f in self.fronts)

    @property
    def seconds(self) -> float:
        """What a factorisation will take, about."""
        return sum(_seconds(f.k, f.m) for f in self.fronts)


def nodes_of(columns: np.ndarray, size: int) -> np.ndarray:
    """Node of each scalar: (size,) int64. Private scalars of a block are one node, and so are those
    shared by as many blocks from the same first one on.

    columns : (blocks, D) int, scalar of each column of each kept block, -1 for none

    ::

        nodes_of(np.array([[0, 1, 4], [2, 3, 4]]), 5)  # [0, 0, 2, 2, 1]
    """
    blocks, scalars = _entries(columns)
    first = np.full(size, len(columns), np.int64)
    np.minimum.at(first, scalars, blocks)
    many = np.bincount(scalars, minlength=size)
    return np.unique(first * (len(columns) + 1) + many, return_inverse=True)[1].reshape(-1)


def analyse(columns: np.ndarray, pairs: np.ndarray, size: int) -> Symbolic:
    """Fronts of the matrix whose block pairs these are: the better of two orders.

    columns : (blocks, D) int, scalar of each column, -1 for none
    pairs : (n, 2) int, kept blocks i <= j that have a block in the matrix
    """
    node = nodes_of(columns, size)
    weights = np.bincount(node)
    edges = _edges(columns, pairs, node)
    order = _reverse_cuthill_mckee(edges, len(weights))
    number = np.argsort(order)
    node, edges, weights = number[node], number[edges], weights[order]
    found = [_eliminated(edges, weights, chosen) for chosen in (True, False)]
    return _fronts(min(found, key=lambda e: e.work(weights)), weights, node)


def _entries(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block and scalar of each column that has one."""
    there = columns >= 0
    blocks = np.broadcast_to(np.arange(len(columns))[:, None], columns.shape)
    return blocks[there], columns[there].astype(np.int64)


def _edges(columns: np.ndarray, pairs: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Which nodes are joined, once in each direction: (edges, 2) int64."""
    n = int(node.max(initial=-1)) + 1
    met = np.unique(np.concatenate([i * n + j for i, j, _ in block_labels(columns, node, pairs)]))
    i, j = met // n, met % n
    both = np.unique(np.concatenate([i * n + j, j * n + i])[np.tile(i != j, 2)])
    return np.stack([both // n, both % n], axis=1)


def block_labels(
    columns: np.ndarray, label: np.ndarray, pairs: np.ndarray
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels of scalars that block pairs join, with repetitions, and which pairs: (n,) each."""
    mine = np.where(columns >= 0, np.append(label, -1)[columns], -1)
    mine = np.sort(mine, axis=1)
    repeated = np.zeros(mine.shape, bool)
    repeated[:, 1:] = mine[:, 1:] == mine[:, :-1]
    mine[repeated] = -1
    mine = -np.sort(-mine, axis=1)[:, : max(1, int((mine >= 0).sum(axis=1).max(initial=0)))]
    for a in mine.T:
        for b in mine.T:
            i, j = a[pairs[:, 0]], b[pairs[:, 1]]
            there = (i >= 0) & (j >= 0)
            yield i[there], j[there], np.flatnonzero(there)


def _reverse_cuthill_mckee(edges: np.ndarray, n: int) -> np.ndarray:
    """Neighbours get near numbers; those that are joined to very many come last."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    degree = np.bincount(edges[:, 0], minlength=n)
    many = degree > max(16, 8 * np.median(degree))
    few = np.flatnonzero(~many)
    graph = csr_array((np.ones(len(edges), np.int8), edges.T), shape=(n, n))
    order = reverse_cuthill_mckee(graph[few][:, few], symmetric_mode=True)
    dense = np.flatnonzero(many)
    return np.concatenate([few[order], dense[np.argsort(degree[dense], kind="stable")]])


@dataclass
class _Elimination:
    """An order, and the columns of the factor: joined[v] are the later nodes in the column of v."""

    order: np.ndarray  # (n,) int64
    bits: np.ndarray  # (n, words) uint64
    weight: np.ndarray  # (n,) int64, scalars in `joined[v]`

    def work(self, weights: np.ndarray) -> float:
        return float((weights * (self.weight + weights) ** 2.0).sum())

    def joined(self, nodes: list[int]) -> np.ndarray:
        """Nodes in the column of any of these."""
        union = np.bitwise_or.reduce(self.bits[nodes], axis=0)
        return np.flatnonzero(np.unpackbits(union.view(np.uint8), bitorder="little"))


def _eliminated(edges: np.ndarray, weights: np.ndarray, chosen: bool) -> _Elimination:
    """In the order of the numbers, or by least degree."""
    n = len(weights)
    bits = np.zeros((n, (n + 63) // 64), np.uint64)
    v, u = edges.T
    np.bitwise_or.at(bits, (v, u >> 6), np.uint64(1) << (u & 63).astype(np.uint64))
    order, weight, degree = np.arange(n), np.empty(n, np.int64), np.empty(n, np.int64)
    weights = weights.astype(np.int64)
    native.load("hpckit.sfm.kernels.cholesky").eliminate(
        n, *map(address, (bits,)), int(chosen), *map(address, (weights, order, degree, weight))
    )
    return _Elimination(order, bits, weight)


def _flops(k: int, m: int) -> float:
    """Of a front of m rows whose first k columns are eliminated."""
    q = m - k
    return k**3 / 3 + k * k * q + k * q * float(q)


def _seconds(k: int, m: int) -> float:
    return _CALL + _flops(k, m) * (1 + _HALF / k) / _FLOPS + _ADD * (m - k) ** 2 / 2


def _fronts(found: _Elimination, weights: np.ndarray, node: np.ndarray) -> Symbolic:
    """Merge nodes with their parents where that is quicker, and number all scalars."""
    n = len(weights)
    step = np.argsort(found.order)
    parent = np.full(n, -1)
    members: dict[int, list[int]] = {}  # by the front's last node
    sizes: dict[int, tuple[int, int]] = {}  # its columns and rows
    children: dict[int, list[int]] = {int(v): [] for v in found.order}
    for v in map(int, found.order):
        k, m = int(weights[v]), int(weights[v] + found.weight[v])
        mine, kept = [v], []
        for c in sorted(children[v], key=lambda c: -sizes[c][0]):
            kc, mc = sizes[c]
            if _seconds(k + kc, m + kc) < _seconds(k, m) + _seconds(kc, mc):
                k, m, mine = k + kc, m + kc, members.pop(c) + mine
                kept += children.pop(c)
            else:
                kept.append(c)
        children[v], members[v], sizes[v] = kept, mine, (k, m)
        later = found.joined([v])
        if len(later):
            parent[v] = later[np.argmin(step[later])]
            children[int(parent[v])].append(v)
    return _numbered(found, weights, node, members, children, np.flatnonzero(parent < 0))


def _numbered(
    found: _Elimination,
    weights: np.ndarray,
    node: np.ndarray,
    members: dict[int, list[int]],
    children: dict[int, list[int]],
    roots: np.ndarray,
) -> Symbolic:
    """Fronts in postorder, their scalars in a row."""
    postorder: list[int] = []
    stack = [int(v) for v in roots if v in members]
    while stack:
        v = stack.pop()
        postorder.append(v)
        stack.extend(children[v])
    postorder.reverse()
    start = np.zeros(len(weights), np.int64)  # position of each node's first scalar
    start[[v for f in postorder for v in members[f]]] = np.concatenate(
        [[0], np.cumsum([weights[v] for f in postorder for v in members[f]])[:-1]]
    )
    number = {f: i for i, f in enumerate(postorder)}
    fronts = []
    for f in postorder:
        later = np.setdiff1d(found.joined(members[f]), members[f])
        rows = _ranges(start[later], weights[later])
        fronts.append(
            Front(
                int(start[members[f][0]]),
                int(weights[members[f]].sum()),
                np.sort(rows),
                [number[c] for c in children[f]],
            )
        )
    by_node = np.argsort(node, kind="stable")
    within = np.arange(len(node)) - np.repeat(np.cumsum(weights) - weights, weights)
    position = np.empty(len(node), np.int64)
    position[by_node] = start[node[by_node]] + within
    return Symbolic(fronts, position)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All numbers from each start on, so many: int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
