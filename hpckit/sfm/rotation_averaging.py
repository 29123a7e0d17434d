"""Rotation averaging: the images' rotations from relative rotations of pairs, some of them wrong.

Find R_i with R_j = R_ij R_i as nearly as possible for all pairs: min 1/2 sum w rho(|e|^2) with
e_ij = log(R_j^T R_ij R_i). A step R_i exp(x_i) changes e_ij by x_i - x_j to first order, in any
direction alike, so that each step solves B^T W B x = B^T W e: the Laplacian of the graph, a number
per pair, with three right-hand sides; its fixed points are those of the cost itself. Starting from
a maximum spanning tree, weights 1/|e| (the cost sum |e|, which half of all pairs cannot spoil)
come before those of Geman-McClure (Chatterjee & Govindu, "Robust relative rotation averaging",
PAMI 2018).

Pairs are distributed over ranks, rotations replicated. The equations are solved by conjugate
gradients, with one allreduce of 3 numbers per image and iteration; the preconditioner is the
diagonal, and a coarse matrix of connected pieces of the spanning tree, which carries corrections
through long chains of images at once (and is all of the matrix where images are few).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.collectives import Allreduce
from hpckit.errors import ConfigError, same, together
from hpckit.native import address
from hpckit.sfm import rotations
from hpckit.sfm.spanning import Graph, Tree, first_pieces, pieces_of, spanning

_PIECES = 256  # at most, of the coarse matrix: it is dense, and inverted in each step
_UNIFORM, _L1, _GEMAN_MCCLURE = 0, 1, 2  # as in the kernel `weigh`
_L1_FLOOR = math.radians(0.05)  # below this, 1/|e| grows no more
# Pairs of the tree fit at first, the wrong ones too: with 1/|e| at once they would hold for long.
_L1_FIRST, _SHRINK = math.radians(20.0), 0.25
_SIGMA = math.radians(5.0)  # of Geman-McClure
_LOOSE = 0.1  # tolerance of a step's equations: the weights change anyway


@dataclass
class RotationReport:
    """What `average_rotations` did.

    ::

        quaternions, report = average_rotations(comm, n, pairs, relative)
        good = report.angle < np.radians(10)
    """

    component: np.ndarray  # (n,) int64: the first image of the component that each image is in
    angle: np.ndarray  # (m,) float64, radians by which each pair of this rank is off at the end
    cost: float  # 1/2 sum of weights and rho(|e|^2), radians squared, over all ranks
    iterations: int  # steps taken
    solver_iterations: int  # of conjugate gradients, in all steps
    termination: str  # "converged", "max_iterations" or "no_pairs"
    history: list[float] = field(default_factory=list)  # mean step of each iteration, radians


def average_rotations(
    comm: MPI.Intracomm,
    n: int,
    edges: np.ndarray,
    relative: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    loss: str = "robust",
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> tuple[np.ndarray, RotationReport]:
    """Rotations of `n` images from relative rotations of pairs (collective).

    edges : (m, 2) integers, this rank's pairs (i, j), counted from 0; no pair on two ranks
    relative : (m, 4) float64, quaternions w x y z of R_ij, with R_j = R_ij R_i
    weights : (m,) float64, positive: the larger, the more a pair counts, and the sooner it is in
        the spanning tree; None, all alike
    loss : "robust", L1 and then Geman-McClure of 5 degrees; "l1"; or "l2", least squares
    tolerance : radians, ends when images turn by less in the mean (a hundredth of it for "l2")

    Returns (n, 4) float64, world to camera, the same on all ranks, and a report. In each connected
    component the first image is the identity. Raises `ConfigError` on all ranks for bad input. ::

        quaternions, report = average_rotations(comm, 3, [(0, 1), (1, 2)], relative)

    Source: Chatterjee & Govindu, PAMI 2018; Hartley et al., "Rotation averaging", IJCV 2013.
    """
    with together(comm):
        graph = _checked(n, edges, relative, weights)
        _check_options(loss, max_iterations, tolerance)
    same(comm, "n and options of rotation averaging", (n, loss, max_iterations, tolerance))
    q, tree = spanning(comm, n, graph)
    solver = _Averaging(comm, graph, q, tree)
    termination = solver.run(loss, max_iterations, tolerance)
    _anchor(q, tree.component)
    angle = np.linalg.norm(solver.residuals(), axis=1)
    report = RotationReport(
        tree.component,
        angle,
        solver.cost,
        len(solver.history),
        solver.solver_iterations,
        termination,
        solver.history,
    )
    return q, report


def _checked(n: int, edges: object, relative: object, weights: object) -> Graph:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"n must be a number of images of at least 1, got {n!r}")
    pairs = np.asarray(edges)
    if pairs.size and pairs.dtype.kind not in "iu":
        raise ConfigError(f"edges must be integers, got {pairs.dtype}")
    pairs = np.ascontiguousarray(pairs, np.int64).reshape(-1, 2)
    q = np.array(relative, np.float64).reshape(-1, 4)
    w = np.ones(len(pairs)) if weights is None else np.array(weights, np.float64).ravel()
    if len(q) != len(pairs) or len(w) != len(pairs):
        raise ConfigError(
            f"there are {len(pairs)} edges, but {len(q)} relative rotations and {len(w)} weights"
        )
    wrong = (pairs < 0).any(1) | (pairs >= n).any(1) | (pairs[:, 0] == pairs[:, 1])
    _refuse(wrong, pairs, f"an edge joins two different images of 0 to {n - 1}")
    length = np.linalg.norm(q, axis=1)
    _refuse(~((length > 0.0) & np.isfinite(length)), q, "a quaternion has a length, and no NaN")
    _refuse(~((w > 0.0) & np.isfinite(w)), w, "weights are positive numbers")
    return Graph(pairs, q / length[:, None], w)


def _refuse(wrong: np.ndarray, values: np.ndarray, rule: str) -> None:
    if wrong.any():
        k = int(wrong.argmax())
        raise ConfigError(f"{rule}, but edge {k} has {values[k].tolist()}")


def _check_options(loss: str, max_iterations: int, tolerance: float) -> None:
    if loss not in ("robust", "l1", "l2"):
        raise ConfigError(f"loss must be 'robust', 'l1' or 'l2', got {loss!r}")
    if max_iterations < 0:
        raise ConfigError(f"max_iterations must not be negative, got {max_iterations}")
    if not tolerance >= 0.0:
        raise ConfigError(f"tolerance must be an angle in radians of at least 0, got {tolerance}")


class _Averaging:
    """The steps; rotations `q` are changed in place."""

    def __init__(self, comm: MPI.Intracomm, graph: Graph, q: np.ndarray, tree: Tree) -> None:
        n, m = len(q), len(graph.edges)
        self._graph, self._q, self._kernels = graph, q, _kernels()
        self._m, self._n = m, n
        self._e, self._weight = np.empty((m, 3)), np.empty(m)
        self._cluster, pieces = pieces_of(tree, min(_PIECES, max(32, n // 8)))
        # Right-hand sides, diagonal, coarse matrix and cost: one allreduce of all.
        sums = np.empty(4 * n + pieces * pieces + 1)
        self._sums, self._sum_up = sums, _plan(comm, sums)
        self._right, self._diagonal = sums[: 3 * n].reshape(n, 3), sums[3 * n : 4 * n]
        self._coarse = sums[4 * n : -1].reshape(pieces, pieces)
        self._y = np.zeros((n, 3))
        self._sum_product = _plan(comm, self._y)
        self._edges_everywhere = int(comm.allreduce(m))
        self._floor = _L1_FIRST
        self._grounded = first_pieces(self._cluster, tree.component)
        self.cost, self.history, self.solver_iterations = 0.0, [], 0

    def run(self, loss: str, max_iterations: int, tolerance: float) -> str:
        """Take steps to the end; why that is."""
        if not self._edges_everywhere:
            return "no_pairs"
        if loss == "l2":
            done = self._iterate(_UNIFORM, 1.0, max_iterations, 0.01 * tolerance)
        elif loss == "l1":
            done = self._iterate(_L1, _L1_FLOOR, max_iterations, tolerance)
        else:
            # A few steps of L1 near its end do: what it leaves is within Geman-McClure's reach.
            self._iterate(_L1, _L1_FLOOR, max_iterations // 2, 10.0 * tolerance)
            left = max_iterations - len(self.history)
            done = self._iterate(_GEMAN_MCCLURE, _SIGMA, left, tolerance)
        return "converged" if done else "max_iterations"

    def residuals(self) -> np.ndarray:
        """(m, 3) rotation vectors e of this rank's pairs."""
        graph = self._graph
        arrays = graph.edges, graph.relative, self._q, self._e
        self._kernels.residuals(self._m, *map(address, arrays))
        return self._e

    def _iterate(self, kind: int, scale: float, steps: int, tolerance: float) -> bool:
        """Steps under one loss until images move by less than the tolerance; whether they do."""
        for _ in range(steps):
            final = kind != _L1 or self._floor <= scale
            self._linearise(kind, scale if final else self._floor)
            self._floor *= _SHRINK
            x = self._solve(1e-3 if kind == _UNIFORM else _LOOSE)
            self._kernels.move(self._n, address(x), address(self._q))
            self.history.append(float(np.sqrt((x * x).sum(1)).mean()))
            if final and self.history[-1] <= tolerance:
                self._linearise(kind, scale)  # for the cost
                return True
        self._linearise(kind, scale)
        return False

    def _linearise(self, kind: int, scale: float) -> None:
        """Right-hand sides, diagonal and coarse matrix where the rotations are now."""
        kernels, m, graph, sums = self._kernels, self._m, self._graph, self._sums
        sums[:] = 0.0
        self.residuals()
        arrays = self._e, graph.weights
        sums[-1] = kernels.weigh(m, *map(address, arrays), kind, scale, address(self._weight))
        arrays = graph.edges, self._weight, self._e, self._right, self._diagonal
        kernels.gradient(m, *map(address, arrays))
        arrays = graph.edges, self._weight, self._cluster
        kernels.coarse(m, *map(address, arrays), len(self._coarse), address(self._coarse))
        self._sum_up()
        self.cost = float(sums[-1])

    def _solve(self, tolerance: float) -> np.ndarray:
        """x of B^T W B x = B^T W e, each column to this relative residual."""
        kernels, n, pieces = self._kernels, self._n, len(self._coarse)
        x, p = np.zeros((2, n, 3))
        inverse, sums, scalars = self._inverse(), np.empty(6 * pieces), np.zeros(6)
        arrays = self._graph.edges, self._weight, p, self._y
        product = self._m, *map(address, arrays)
        arrays = inverse, self._diagonal, sums, scalars
        state = *map(address, (x, self._right, p, self._y, self._cluster)), pieces
        iteration = n, *state, *map(address, arrays), tolerance * tolerance
        self._y[:] = 0.0
        for _ in range(10 * n):
            if kernels.iterate(*iteration):
                break
            self.solver_iterations += 1
            self._y[:] = 0.0
            kernels.product(*product)
            self._sum_product()
        return x

    def _inverse(self) -> np.ndarray:
        """(Z^T L Z)^-1, grounded in each component."""
        matrix = self._coarse.copy()
        # Constants solve the equations with 0: without this the matrix is singular.
        matrix[self._grounded, self._grounded] *= 2.0
        np.fill_diagonal(matrix, np.where(matrix.diagonal() > 0.0, matrix.diagonal(), 1.0))
        return np.linalg.inv(matrix)


def _plan(comm: MPI.Intracomm, array: np.ndarray):
    return (lambda: None) if comm.size == 1 else Allreduce(comm, array)


def _anchor(q: np.ndarray, component: np.ndarray) -> None:
    """Turn the world of each component so that its first image is the identity."""
    q[:] = rotations.multiply(q, rotations.conjugate(q[component]))


def _kernels():
    return native.load("hpckit.sfm.kernels.averaging")
