"""What messages between the nodes of a communicator cost: latency and time per byte of every pair, measured once.

The model is a line: a message of n bytes takes `alpha + beta n` seconds. A rank that sends to several at once pays
`overhead` more for each, and, while everybody sends to everybody, `crowd` times as long for each byte.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.comm import store
from hpckit.comm.system import meet

VERSION = 3  # of the file: change it with whatever changes the meaning of the numbers
_SHORT, _LONG = 8, 1 << 15  # bytes; longer ones may need a handshake first, which is no matter of bytes
_REPEATS, _CAREFUL = 5, 25  # messages each way per pair, and where a fresh measurement is asked for
_SWEEPS = 15  # pairings of all nodes that are measured at most: enough to see every node against several others


@dataclass(frozen=True)
class Links:
    """Costs between nodes, the same on all ranks.

    machine : what was measured: hosts and ranks on them, MPI library
    node_of : node number of each rank
    alpha, beta : (nodes, nodes) float64, seconds and seconds per byte from one node to the other; the diagonal is
        between ranks of one node
    overhead, crowd : of direct exchanges, see above
    gamma : seconds per byte of adding two float64 arrays
    """

    machine: Mapping[str, Any]
    node_of: tuple[int, ...]
    alpha: np.ndarray
    beta: np.ndarray
    overhead: float
    crowd: float
    gamma: float

    @classmethod
    def load_or_measure(cls, comm: MPI.Intracomm, nodes: Iterable[int], fresh: bool = False) -> Links:
        """The numbers of these nodes; measured if there is no file of them, or a `fresh` one is wanted (collective).

        nodes : the lowest rank of each rank's node
        """
        lowest = sorted(set(nodes := list(nodes)))
        node_of = tuple(lowest.index(node) for node in nodes)
        machine = {
            "hosts": comm.allgather(platform.node()),
            "mpi": store.mpi_library(),
            "version": VERSION,
        }
        found = comm.bcast(_parse(store.read("links", machine), len(lowest)) if comm.rank == 0 and not fresh else None)
        if found is None:
            found = _measure(comm, node_of, lowest, _CAREFUL if fresh else _REPEATS)
            if comm.rank == 0:
                store.write("links", machine, {name: np.asarray(value).tolist() for name, value in found.items()})
        return cls(machine, node_of, **found)

    @property
    def nodes(self) -> int:
        return len(self.alpha)

    @property
    def farthest(self) -> float:
        """The largest latency."""
        return float(self.alpha.max())

    def groups(self) -> list[int] | None:
        """For each rank the number of its group of nodes that are near each other; None where all are alike.

        Groups are what links of less than the geometric mean of the extreme latencies connect; two nodes each at least.
        """
        apart = ~np.eye(self.nodes, dtype=bool)
        if self.nodes < 4 or self.alpha[apart].max() < 4 * self.alpha[apart].min():
            return None
        near = self.alpha < math.sqrt(self.alpha[apart].max() * self.alpha[apart].min())
        group = list(range(self.nodes))
        for i, j in zip(*np.nonzero(near), strict=True):
            group = [group[i] if g == group[j] else g for g in group]
        sizes = [group.count(g) for g in group]
        if min(sizes) < 2 or len(set(group)) == 1:
            return None
        return [sorted(set(group)).index(group[node]) for node in self.node_of]

    def __str__(self) -> str:
        apart = ~np.eye(self.nodes, dtype=bool)
        lines = [f"{self.nodes} node{'s' * (self.nodes > 1)}, {len(self.node_of)} ranks"]
        several = np.bincount(self.node_of) > 1
        for name, known in (("within a node", np.diag(several)), ("between nodes", apart)):
            if known.any():
                with np.errstate(divide="ignore"):  # too fast to measure
                    a, b = 1e6 * self.alpha[known], 1e-6 / self.beta[known]
                lines.append(f"{name}: latency {_range(a)} us, {_range(b)} MB/s")
        lines.append(f"further messages {1e6 * self.overhead:.3g} us each, crowded bytes x {self.crowd:.3g}")
        return "\n".join(lines)


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3g}" if high < 1.2 * low else f"{low:.3g} to {high:.3g}"


def _parse(found: Any, nodes: int) -> dict[str, Any] | None:
    """The numbers of a file; None where it is damaged."""
    try:
        pairs = {name: np.array(found[name], dtype=float) for name in ("alpha", "beta")}
        single = {name: float(found[name]) for name in ("overhead", "crowd", "gamma")}
    except (KeyError, TypeError, ValueError):
        return None
    numbers = [*single.values(), *(float(x) for values in pairs.values() for x in values.flat)]
    good = all(values.shape == (nodes, nodes) for values in pairs.values()) and all(x >= 0 for x in numbers)
    return pairs | single if good else None


# -- measuring ---------------------------------------------------------------------------------------------------------


def _measure(comm: MPI.Intracomm, node_of: tuple[int, ...], lowest: list[int], repeats: int) -> dict[str, Any]:
    nodes = len(lowest)
    alpha, beta = np.full((nodes, nodes), np.inf), np.full((nodes, nodes), np.inf)
    for pairs in _pairings(nodes):
        _measure_pairs(comm, [(lowest[i], lowest[j]) for i, j in pairs], pairs, repeats, alpha, beta)
    partners = [(r, next((q for q in range(r + 1, comm.size) if node_of[q] == node_of[r]), None)) for r in lowest]
    inside = [(r, q) for r, q in partners if q is not None]
    _measure_pairs(comm, inside, [(node_of[r], node_of[r]) for r, _ in inside], repeats, alpha, beta)
    comm.Allreduce(MPI.IN_PLACE, alpha, MPI.MIN)
    comm.Allreduce(MPI.IN_PLACE, beta, MPI.MIN)
    _estimate_the_rest(alpha)
    _estimate_the_rest(beta)
    overhead, crowd = _direct_exchange(comm, repeats, alpha, beta)
    return {"alpha": alpha, "beta": beta, "overhead": overhead, "crowd": crowd, "gamma": comm.bcast(_gamma())}


def _pairings(nodes: int) -> list[list[tuple[int, int]]]:
    """Every node against another, in turn: a round-robin tournament, or its first rounds."""
    places = [*range(nodes), *([-1] if nodes % 2 else [])]
    half, rounds = len(places) // 2, []
    for _ in range(min(len(places) - 1, _SWEEPS)):
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        rounds.append([(min(p), max(p)) for p in pairs if -1 not in p])
        places.insert(1, places.pop())
    return rounds


def _measure_pairs(
    comm: MPI.Intracomm,
    ranks: list[tuple[int, int]],
    at: list[tuple[int, int]],
    repeats: int,
    alpha: np.ndarray,
    beta: np.ndarray,
) -> None:
    """All these pairs at once; the first rank of each pair notes what it found, both ways."""
    for (first, second), (i, j) in zip(ranks, at, strict=True):
        if comm.rank in (first, second):
            peer = second if comm.rank == first else first
            short, long = (_ping_pong(comm, peer, nbytes, comm.rank == first, repeats) for nbytes in (_SHORT, _LONG))
            if comm.rank == first:
                alpha[i, j] = alpha[j, i] = short
                beta[i, j] = beta[j, i] = max(long - short, 0.0) / (_LONG - _SHORT)
    meet(comm)


def _ping_pong(comm: MPI.Intracomm, peer: int, nbytes: int, first: bool, repeats: int) -> float:
    """Seconds of a message, half a round trip: the shortest of several."""
    buffer = np.zeros(nbytes, np.uint8)
    best = math.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        for sends in (first, not first):
            if sends:
                comm.Send(buffer, peer)
            else:
                comm.Recv(buffer, peer)
        best = min(best, (time.perf_counter() - begin) / 2)
    return best


def _estimate_the_rest(table: np.ndarray) -> None:
    """Pairs that were not measured: as the worse of the two nodes' middle values."""
    known = np.isfinite(table)
    if not known.any():
        table[:] = 0.0
        return
    middle = np.array(
        [
            np.median(row[mask]) if mask.any() else np.median(table[known])
            for row, mask in zip(table, known, strict=True)
        ]
    )
    np.copyto(table, np.maximum(middle[:, None], middle), where=~known)


def _direct_exchange(comm: MPI.Intracomm, repeats: int, alpha: np.ndarray, beta: np.ndarray) -> tuple[float, float]:
    """What everybody sending to everybody costs beyond the line: seconds per further message, and a factor of bytes."""
    others = comm.size - 1
    if not others:
        return 0.0, 1.0
    short, long = (_everybody(comm, nbytes, repeats) for nbytes in (_SHORT, _LONG))
    overhead = max(short - alpha.max(), 0.0) / others
    ideal = others * (_LONG - _SHORT) * float(beta.max())
    return overhead, float(np.clip((long - short) / ideal, 1.0, 4.0)) if ideal else 1.0


def _everybody(comm: MPI.Intracomm, nbytes: int, repeats: int) -> float:
    """Seconds until everybody has everybody's message: the shortest of several, the slowest rank's."""
    mine, all_of_them = np.zeros(nbytes, np.uint8), np.zeros((comm.size, nbytes), np.uint8)
    peers = [(comm.rank + step) % comm.size for step in range(1, comm.size)]

    def exchange(size: int) -> None:
        requests = [comm.Irecv(all_of_them[peer, :size], peer) for peer in peers]
        MPI.Request.Waitall(requests + [comm.Isend(mine[:size], peer) for peer in peers])

    best = math.inf
    for _ in range(repeats):
        exchange(_SHORT)  # all end it when they have heard of the last; a barrier's ends are latencies apart
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
