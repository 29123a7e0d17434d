"""What messages between the nodes of a communicator cost: latency and time per byte of pairs of
nodes.

The model is a line: a message of n bytes takes `alpha + beta n` seconds. A rank that sends to
several at once pays `overhead` more for each, and, while everybody sends to everybody, `crowd`
times as long for each byte.

A few nodes are measured each against each. Of many, every node is measured against some ten others,
near and far, so that time, memory and file grow with the number of nodes, not with its square.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import meet
from hpckit.machine.pingpong import one_way

_SHORT = 8  # bytes
_LONG = 1 << 15  # bytes; longer ones may need a handshake first, which is no matter of bytes
_REPEATS = 5  # messages each way per pair
_CAREFUL = 25  # the same where a fresh measurement is asked for
_FEW = 16  # nodes that are measured each against each
_PEERS = 63  # ranks that a rank sends to in a direct exchange that is measured


@dataclass(frozen=True)
class Links:
    """Costs between nodes, the same on all ranks.

    node_of : node number of each rank
    pairs : (m, 2) int, the pairs of nodes that were measured, (i, i) between ranks of one node
    alpha, beta : (m,) float64, seconds and seconds per byte of these pairs, either way
    overhead, crowd : of direct exchanges, see above
    gamma : seconds per byte of adding two float64 arrays
    """

    node_of: tuple[int, ...]
    pairs: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    overhead: float
    crowd: float
    gamma: float

    @classmethod
    def of_tables(
        cls, node_of: Iterable[int], alpha: np.ndarray, beta: np.ndarray, **numbers: float
    ) -> Links:
        """From symmetric (nodes, nodes) tables: links that are known rather than measured."""
        i, j = np.triu_indices(len(alpha))
        return cls(tuple(node_of), np.stack([i, j], axis=1), alpha[i, j], beta[i, j], **numbers)

    @classmethod
    def from_json(cls, found: Any, node_of: Sequence[int]) -> Links | None:
        """What `to_json` made; None where it is damaged, or no links of so many nodes."""
        nodes = max(node_of) + 1
        try:
            pairs = np.array(found["pairs"], dtype=int).reshape(-1, 2)
            alpha, beta = (np.array(found[name], dtype=float) for name in ("alpha", "beta"))
            single = {name: float(found[name]) for name in ("overhead", "crowd", "gamma")}
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not alpha.shape == beta.shape == (len(pairs),):
            return None
        numbers = np.concatenate([alpha, beta, [*single.values()]])
        enough = nodes == 1 or len(pairs) >= nodes - 1
        known = ((pairs >= 0) & (pairs < nodes)).all()
        if not (enough and known and ((numbers >= 0) & np.isfinite(numbers)).all()):
            return None
        return cls(tuple(node_of), pairs, alpha, beta, **single)

    def to_json(self) -> dict[str, Any]:
        """As numbers and lists, without `node_of`."""
        names = ("pairs", "alpha", "beta", "overhead", "crowd", "gamma")
        return {name: np.asarray(getattr(self, name)).tolist() for name in names}

    @property
    def nodes(self) -> int:
        return max(self.node_of) + 1

    @property
    def between(self) -> np.ndarray:
        """(m,) bool: the pairs of different nodes."""
        return self.pairs[:, 0] != self.pairs[:, 1]

    @property
    def farthest(self) -> float:
        """The largest latency."""
        return float(self.alpha.max(initial=0.0))

    @property
    def within(self) -> float:
        """The largest latency between ranks of one node."""
        return float(self.alpha[~self.between].max(initial=0.0))

    def slowest(self) -> tuple[float, float]:
        """Latency and time per byte of the slowest pair that all must use."""
        used = self.between if self.nodes > 1 else ~self.between
        return float(self.alpha[used].max(initial=0.0)), float(self.beta[used].max(initial=0.0))

    def per_node(self, values: np.ndarray, of: Callable[[np.ndarray], Any]) -> np.ndarray:
        """For each node what `of` makes of the values of its pairs with others."""
        used = self.between if self.nodes > 1 else ~self.between
        node = self.pairs[used].T.ravel()  # each pair counts for both of its ends
        order = np.argsort(node, kind="stable")
        cuts = np.searchsorted(node[order], np.arange(1, self.nodes))
        return np.array(
            [
                of(mine) if mine.size else 0.0
                for mine in np.split(np.tile(values[used], 2)[order], cuts)
            ]
        )

    def groups(self) -> list[int] | None:
        """For each rank the number of its group of near nodes; None where all are alike.

        Groups are what links of less than the geometric mean of the extreme latencies connect; two
        nodes each at least.
        """
        alpha, pairs = self.alpha[self.between], self.pairs[self.between]
        if self.nodes < 4 or alpha.max() < 4 * alpha.min():
            return None
        near = pairs[alpha < math.sqrt(alpha.max() * alpha.min())]
        _, group, sizes = np.unique(
            _connected(self.nodes, near), return_inverse=True, return_counts=True
        )
        if sizes.min() < 2 or len(sizes) == 1:
            return None
        return group[list(self.node_of)].tolist()

    def __str__(self) -> str:
        lines = [f"{self.nodes} node{'s' * (self.nodes > 1)}, {len(self.node_of)} ranks"]
        for name, known in (("within a node", ~self.between), ("between nodes", self.between)):
            if known.any():
                with np.errstate(divide="ignore"):  # too fast to measure
                    a, b = 1e6 * self.alpha[known], 1e-6 / self.beta[known]
                lines.append(f"{name}: latency {_range(a)} us, {_range(b)} MB/s")
        lines.append(
            f"further messages {1e6 * self.overhead:.3g} us each, crowded bytes x {self.crowd:.3g}"
        )
        return "\n".join(lines)


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if high < 1.2 * low else f"{low:.3g} to {high:.3g}"


def _connected(nodes: int, pairs: np.ndarray) -> np.ndarray:
    """For each node the lowest node that it is connected with by these pairs."""
    lowest, (i, j) = np.arange(nodes), pairs.T
    while True:
        before, low = lowest.copy(), np.minimum(lowest[i], lowest[j])
        np.minimum.at(lowest, i, low)
        np.minimum.at(lowest, j, low)
        lowest = lowest[lowest]  # whole groups move at once: few rounds for long chains too
        if np.array_equal(lowest, before):
            return lowest


# -- measuring -------------------------------------------------------------------------------------


def measure(comm: MPI.Intracomm, nodes: Sequence[int], careful: bool = False) -> Links:
    """The links of these nodes, each given by the lowest rank of each rank's node (collective)."""
    repeats = _CAREFUL if careful else _REPEATS
    distinct, inverse = np.unique(list(nodes), return_inverse=True)
    lowest, node_of = distinct.tolist(), inverse.tolist()
    rounds = [
        (pairs, [(lowest[i], lowest[j]) for i, j in pairs]) for pairs in pairings(len(lowest))
    ]
    second: dict[int, int] = {}  # rank of each node, after its lowest
    for rank, node in enumerate(node_of):
        if rank != lowest[node]:
            second.setdefault(node, rank)
    within = [(node, node) for node in second]
    rounds.append((within, [(lowest[node], rank) for node, rank in second.items()]))
    found = np.concatenate([_measure_pairs(comm, ranks, repeats) for _, ranks in rounds], axis=1)
    comm.Allreduce(MPI.IN_PLACE, found, MPI.MIN)
    pairs = np.array([pair for pairs, _ in rounds for pair in pairs], dtype=int).reshape(-1, 2)
    overhead, crowd = _direct_exchange(comm, repeats, *found.max(axis=1, initial=0.0).tolist())
    gamma = comm.bcast(_gamma())
    return Links(tuple(node_of), pairs, found[0], found[1], overhead, crowd, gamma)


def pairings(nodes: int) -> list[list[tuple[int, int]]]:
    """Rounds of pairs of nodes, each node in one pair of a round at most.

    All pairs of a few nodes: a round-robin tournament. Of many nodes the neighbours in their order,
    which is mostly that of racks and switches, and those whose numbers differ in one bit, the edges
    of a hypercube: near ones and far ones, and whatever block of nodes makes a group, these connect
    it.
    """
    if nodes > _FEW:
        edges = [
            [(i, i ^ bit) for i in range(nodes) if not i & bit and i ^ bit < nodes]
            for bit in _bits(nodes)
        ]
        return [*edges, [(i, i + 1) for i in range(1, nodes - 1, 2)]]
    places = [*range(nodes), *([-1] if nodes % 2 else [])]
    half, rounds = len(places) // 2, []
    for _ in range(len(places) - 1):
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if -1 not in p])
        places.insert(1, places.pop())
    return rounds


def _bits(nodes: int) -> list[int]:
    return [1 << bit for bit in range((nodes - 1).bit_length())]


def _measure_pairs(comm: MPI.Intracomm, pairs: list[tuple[int, int]], repeats: int) -> np.ndarray:
    """(2, pairs) latencies and times per byte, all at once; each pair's first rank knows its."""
    found = np.full((2, len(pairs)), np.inf)
    for at, (first, second) in enumerate(pairs):
        if comm.rank in (first, second):
            peer = second if comm.rank == first else first
            short, long = (
                one_way(comm, peer, nbytes, comm.rank == first, repeats)
                for nbytes in (_SHORT, _LONG)
            )
            if comm.rank == first:
                found[:, at] = short, max(long - short, 0.0) / (_LONG - _SHORT)
    meet(comm)
    return found


def _direct_exchange(
    comm: MPI.Intracomm, repeats: int, alpha: float, beta: float
) -> tuple[float, float]:
    """What all-to-all costs beyond the line: seconds per further message, a factor of bytes."""
    others = min(comm.size - 1, _PEERS)
    if not others:
        return 0.0, 1.0
    short, long = (_everybody(comm, others, nbytes, repeats) for nbytes in (_SHORT, _LONG))
    overhead = max(short - alpha, 0.0) / others
    ideal = others * (_LONG - _SHORT) * beta
    return overhead, float(np.clip((long - short) / ideal, 1.0, 4.0)) if ideal else 1.0


def _everybody(comm: MPI.Intracomm, others: int, nbytes: int, repeats: int) -> float:
    """Seconds until the slowest rank has messages of so many others: the least of several."""
    mine, theirs = np.zeros(nbytes, np.uint8), np.zeros((others, nbytes), np.uint8)
    steps = [1 + step * (comm.size - 1) // others for step in range(others)]  # near and far ones
    to, whence = ([(comm.rank + sign * step) % comm.size for step in steps] for sign in (1, -1))

    def exchange(size: int) -> None:
        requests = [
            comm.Irecv(into[:size], peer) for into, peer in zip(theirs, whence, strict=True)
        ]
        MPI.Request.Waitall(requests + [comm.Isend(mine[:size], peer) for peer in to])

    best = math.inf
    for _ in range(repeats):
        exchange(
            _SHORT
        )  # all end it when they have heard of the last; a barrier's ends are latencies apart
        begin = time.perf_counter()
        exchange(nbytes)
        best = min(best, comm.allreduce(time.perf_counter() - begin, MPI.MAX))
    return best


def _gamma() -> float:
    a, b = np.zeros(1 << 14), np.zeros(1 << 14)
    best = math.inf
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        np.add(a, b, out=b)
        best = min(best, time.perf_counter() - begin)
    return best / a.nbytes
