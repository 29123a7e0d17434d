"""The reduced system: what is left of the normal equations when one side is eliminated.

The unknowns are blocks of two sides. *Kept* blocks (width D) are the same on all ranks,
*eliminated* blocks (width d) are cut over the ranks with their observations; an observation o joins
kept block k and eliminated block e by its residual r_o and its Jacobians Jk_o (2 x D) and Je_o
(2 x d). With
U = sum Jk'Jk, W = sum Jk'Je, V = sum Je'Je + damping, the Schur complement of V is

    S = U - W V^-1 W',     S x = right = -(g_kept - W V^-1 g_eliminated),

of which the eliminated step is V^-1 (-g_eliminated - W'x) (Triggs et al., "Bundle Adjustment - A
Modern Synthesis", 2000, section 6). What is shared, fixed or padding is one linear map P: entry
`columns[k, a]` of x is column a of kept block k, and -1 is none. So the system that solvers see is
P'S P + diag(damping), of `size` unknowns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.priors import Priors
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.state import State
from hpckit.sfm.bundle.sums import Sum, TreeSum
from hpckit.sfm.bundle.table import Table
from hpckit.sfm.cameras import Cameras

_LEAST, _MOST = 1e-6, 1e32  # of a diagonal element that damps, as in Ceres
_ALL_PAIRS = 100  # kept blocks up to which the pattern is all pairs
_KERNELS = "hpckit.sfm.kernels"


class Shape(NamedTuple):
    """How large a reduced system is: what `auto` and the estimates of memory know of it."""

    size: int  # unknowns of x
    blocks: int  # kept blocks
    width: int  # D
    eliminated: int  # eliminated blocks, of all ranks
    eliminated_width: int  # d
    observations: int  # of all ranks
    pairs: int  # pairs i <= j of kept blocks that an eliminated block joins, an upper bound
    ranks: int


@dataclass
class Linearisation:
    """Jacobians and residuals of this rank's observations, sorted by eliminated block.

    The kernels fill these arrays in place: they are allocated once, and live as long as the solve.
    """

    start: np.ndarray  # (eliminated + 1,) int64: observations of block e are start[e]:start[e + 1]
    kept: np.ndarray  # (n,) int32, kept block; ascending within an eliminated block
    jacobian: np.ndarray  # (n, 2, D + d) float64: Jk is [..., :D], Je is [..., D:]
    residual: np.ndarray  # (n, 2) float64; both are scaled by the square root of the loss' weight
    factor: np.ndarray  # (eliminated, d (d + 1) / 2) float64: C with (V + damping)^-1 = C'C, lower,
    #   packed by rows


class ReducedSystem:
    """The system of one linearisation and one damping (see the module's text).

    comm : the ranks that share it; every method is collective
    shape : how large it is
    columns : (blocks, D) int32, the entry of x of each block's columns, -1 none
    damping : (size,) float64, of the kept unknowns; those of the eliminated are in V
    gradient : (size,) float64, P'g_kept, the same on all ranks
    right : (size,) float64, the same on all ranks
    linearisation : this rank's Jacobians

    ::

        cost = system.linearise(state)
        if system.damp(radius):
            step, iterations = solution.solve(0.01)
            eliminated, decrease = system.substitute(step)
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        problem: Problem,
        cameras: Cameras,
        *,
        robust: tuple[int, float] = (0, 1.0),
        behind: str = "keep",
        priors: Priors | None = None,
        reproducible: bool = False,
    ) -> None:
        layout, table = problem.layout, problem.table
        self.comm = comm
        self.layout = layout
        self.table = table
        self.columns = np.ascontiguousarray(layout.columns)
        self.shape = shape_of(comm, problem)
        blocks, width = self.columns.shape
        d, n, mine = layout.eliminated_width, len(table.kept), len(table.start) - 1
        constants = {"D": width, "d": d}
        self._linear = native.load(f"{_KERNELS}.linearise", **constants)
        self._schur = native.load(f"{_KERNELS}.schur", **constants)
        self._setup = native.load(f"{_KERNELS}.setup")
        self._model = np.ascontiguousarray(cameras.model, np.int32)
        self._camera = np.ascontiguousarray(problem.camera, np.int32)
        self._lens = np.ascontiguousarray(layout.lens, np.int32)
        self._point_of = np.ascontiguousarray(layout.point_of, np.int32)
        self._robust = robust
        self._behind = int(behind == "zero")
        self._held = problem.held
        self._mine = problem.mine
        self._priors = priors
        if priors and layout.side == "poses":
            priors.own(self._mine)
        elif priors:
            priors.own(slice(0, None if comm.rank == 0 else 0))
        packed = d * (d + 1) // 2
        self.linearisation = Linearisation(
            table.start,
            table.kept,
            np.empty((n, 2, width + d)),
            np.empty((n, 2)),
            np.empty((mine, packed)),
        )
        self._v = np.empty((mine, packed))
        self._g = np.empty((mine, d))
        self._step = np.empty((mine, d))
        self._scratch = np.empty((d + 2) * width * table.longest)
        self._x = np.empty((blocks, width))
        self._y = np.empty((blocks, width))
        self._sum = TreeSum if reproducible else Sum
        self._gradients = self.new_sum(2 * blocks * width + 1)
        self._products = self.new_sum(layout.size + 1)
        self._scalars = self.new_sum(1)
        self.damping = np.zeros(layout.size)
        self.gradient = np.zeros(layout.size)
        self.right = np.zeros(layout.size)
        self._diagonal_of_u = np.zeros(layout.size)

    def cost(self, state: State) -> float:
        """1/2 sum rho(|r|^2) of all ranks; infinite or NaN where a point has no projection."""

        prior = self._priors.cost(state) if self._priors else 0.0
        return self._cost(state, self._robust) + prior

    def reprojection_cost(self, state: State) -> float:
        """1/2 sum |r|^2, without loss and priors."""
        return self._cost(state, (0, 1.0))

    def _cost(self, state: State, robust: tuple[int, float]) -> float:
        rules = *robust, self._behind

        def add(first: int, last: int, out: np.ndarray) -> None:
            out[0] += self._linear.cost(first, last, *self._problem(state), *rules)

        return float(self._scalars(add)[0])

    def linearise(self, state: State) -> float:
        """Fill `linearisation` and `gradient`; the cost."""
        at, n = self.linearisation, self._x.size
        lens, points = address(self._lens), address(state.points)
        outputs = [address(a) for a in (at.jacobian, at.residual, self._v, self._g)]

        def add(first: int, last: int, out: np.ndarray) -> None:
            *problem, _ = self._problem(state)
            kept = address(out), address(out) + 8 * n
            out[-1] += self._linear.linearise(
                first, last, *problem, lens, points, *self._rules, *outputs, *kept
            )

        self._state = state
        prior = self._priors.linearise(state) if self._priors else 0.0
        total = self._gradients(add, self._prior_gradient)
        self._add_priors_to_v()
        self._hold()
        self.collect(total[:n], self.gradient)
        self.collect(total[n:-1], self._diagonal_of_u)
        return float(total[-1]) + prior

    def damp(self, radius: float) -> bool:
        """Damp both sides by their diagonals / radius, and set `right`; whether V is positive."""
        np.clip(self._diagonal_of_u, _LEAST, _MOST, out=self.damping)
        self.damping /= radius
        v, c = address(self._v), address(self.linearisation.factor)

        def add(first: int, last: int, out: np.ndarray) -> None:
            out[-1] += self._schur.factor(first, last, v, radius, c)
            self._y[:] = 0
            self._schur.reduce_gradient(
                first, last, *self._observations, c, address(self._g), address(self._y)
            )
            self._collect(self._y, out)

        total = self._products(add)
        np.subtract(total[:-1], self.gradient, out=self.right)
        return total[-1] == 0

    def substitute(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """The step of this rank's eliminated blocks, (blocks, d), and by how much the linear model
        lowers the cost: NaN where the step is not finite.
        """
        self.expand(x, self._x)
        at = self.linearisation
        arrays = (at.residual, at.factor, self._g, self._x, self._scratch, self._step)
        addresses = [address(a) for a in arrays]

        def add(first: int, last: int, out: np.ndarray) -> None:
            out[0] += self._schur.substitute(first, last, *self._observations, *addresses)

        decrease = float(self._scalars(add)[0])
        if self._priors:
            steps = np.zeros_like(self._priors.gradient)
            if self._keeps_poses:
                steps[:] = self._x[:, :6]
            else:
                steps[self._mine] = self._step[:, :6]
            decrease += self._priors.decrease(steps)
        return self._step, decrease

    def largest_gradient(self) -> float:
        """The largest component of the gradient of both sides, by its absolute value."""
        mine = max(np.abs(self.gradient).max(initial=0), np.abs(self._g).max(initial=0))
        return self.comm.allreduce(float(mine), MPI.MAX)

    def pattern(self) -> np.ndarray:
        """(pairs, 2) int32: kept blocks i <= j joined by an eliminated one, sorted, all (i, i) too.

        The same on all ranks and through the whole solve; may hold pairs that nothing joins.
        """
        return self._pattern[0]

    def assemble(self, root: int | None = None) -> np.ndarray | None:
        """Blocks S_ij of the pattern, (pairs, D, D) float64, without `damping`; S_ji is S_ij'.

        Summed over ranks, on all of them or (`root`) on that one only, None elsewhere. The array is
        the system's own and is overwritten by the next call.
        """
        pairs, keys, values, mask = self._pattern
        n, c = self.shape.blocks, address(self.linearisation.factor)
        table = address(keys), address(values), mask, address(self._scratch)

        def add(first: int, last: int, out: np.ndarray) -> None:
            self._schur.assemble(first, last, *self._observations, c, n, *table, address(out))

        width = self.shape.width
        diagonal = np.flatnonzero(pairs[:, 0] == pairs[:, 1])

        def once(out: np.ndarray) -> None:
            self._prior_blocks(out.reshape(-1, width, width), diagonal)

        total = self._blocks(add, once).reshape(len(pairs), width, width)
        return total if root in (None, self.comm.rank) else None

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = (P'S P + diag(damping)) x without ever forming S: one sum over ranks of `size`."""
        self.expand(x, self._x)
        at = self.linearisation
        arrays = [address(a) for a in (at.factor, self._x, self._scratch, self._y)]

        def add(first: int, last: int, total: np.ndarray) -> None:
            self._y[:] = 0
            self._schur.multiply(first, last, *self._observations, *arrays)
            self._collect(self._y, total)

        def once(total: np.ndarray) -> None:
            if self._priors and self._keeps_poses:
                self._y[:] = 0
                self._y[:, :6] = (self._priors.hessian @ self._x[:, :6, None])[..., 0]
                self._collect(self._y, total)

        total = self._products(add, once)
        np.multiply(self.damping, x, out=out)
        out += total[:-1]

    def diagonal(self) -> np.ndarray:
        """(blocks, D, D) float64, the blocks S_kk, the same on all ranks, without `damping`.

        Terms between two observations of one eliminated block by the same kept one are left out: it
        is for preconditioners.
        """
        c = address(self.linearisation.factor)

        def add(first: int, last: int, out: np.ndarray) -> None:
            self._schur.diagonal(first, last, *self._observations, c, address(out))

        blocks, width = self._x.shape

        def once(out: np.ndarray) -> None:
            self._prior_blocks(out.reshape(blocks, width, width), slice(None))

        return self._diagonals(add, once).reshape(blocks, width, width)

    def modes(self) -> np.ndarray | None:
        """(blocks, D, 7) float64: how the columns of each block change where the world is shifted
        along x, y, z, turned about them, and scaled; zeros for intrinsics. None where the kept
        blocks are points.
        """
        if not self._keeps_poses:
            return None
        modes = np.zeros((*self._x.shape, 7))
        modes[:, 3:6, 0:3] = -self._state.rotation
        modes[:, 0:3, 3:6] = -self._state.rotation
        modes[:, 3:6, 6] = self._state.translation
        return modes

    def add_priors(self, x: np.ndarray, out: np.ndarray) -> None:
        """out += (blocks of the priors) x, both (blocks, D, m); of what this rank counts."""
        if self._priors and self._keeps_poses:
            out[:, :6] += self._priors.hessian @ x[:, :6]

    def expand(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = P x, (blocks, D): zero where a column has no entry of x."""
        self._setup.expand(out.size, address(self.columns), address(x), address(out))

    def collect(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """out = P' blocks, (size,): the sum of the columns that share an entry."""
        out[:] = 0
        self._collect(blocks, out)

    def _collect(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """out += P' blocks."""
        self._setup.collect(blocks.size, address(self.columns), address(blocks), address(out))

    def new_sum(self, count: int) -> Sum | TreeSum:
        """A sum of `count` numbers over the eliminated blocks of all ranks, made once."""
        return self._sum(self.comm, count, self.table.ranges)

    @cached_property
    def _blocks(self) -> Sum | TreeSum:
        return self.new_sum(len(self._pattern[0]) * self.shape.width**2)

    @cached_property
    def _diagonals(self) -> Sum | TreeSum:
        return self.new_sum(self.shape.blocks * self.shape.width**2)

    @cached_property
    def _pattern(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """The pairs, and a hash table of their places: keys, values and mask, 0 if all pairs."""
        n = self.shape.blocks
        if n <= _ALL_PAIRS:
            pairs = np.stack(np.triu_indices(n), axis=1).astype(np.int32)
            return pairs, np.zeros(1, np.int64), np.zeros(1, np.int32), 0
        everyone = joined(self.comm, self.table, n)
        mask = _table_size(2 * len(everyone)) - 1
        keys, values = np.full(mask + 1, -1, np.int64), np.empty(mask + 1, np.int32)
        arrays = [address(a) for a in (everyone, keys, values)]
        self._setup.index(len(everyone), *arrays, mask)
        pairs = np.stack(np.divmod(everyone, n), axis=1).astype(np.int32)
        return pairs, keys, values, mask

    @cached_property
    def _observations(self) -> tuple[int, ...]:
        """Addresses that all kernels of elimination begin with."""
        at = self.linearisation
        return tuple(address(a) for a in (at.start, at.kept, at.jacobian))

    @property
    def _rules(self) -> tuple[int, float, int]:
        """The loss, its scale, and what becomes of points behind their camera."""
        return *self._robust, self._behind

    def _problem(self, state: State) -> list[int]:
        """Addresses that all kernels of residuals begin with."""
        table = self.table
        first = 0 if self._keeps_poses else self._mine.start  # blocks are images from this one on
        arrays = (
            table.start,
            table.kept,
            self._point_of,
            table.xy,
            state.rotation[first:],
            state.translation[first:],
            self._camera[first:],
            self._model,
            state.parameters,
            state.points,
        )
        return [address(a) for a in arrays]

    @property
    def _keeps_poses(self) -> bool:
        return self.layout.side == "points"

    def _prior_gradient(self, out: np.ndarray) -> None:
        """Add the priors' to g and the diagonal of U."""
        if self._priors and self._keeps_poses:
            n = self._x.size
            diagonal = np.einsum("nii->ni", self._priors.hessian)
            out[:n].reshape(self._x.shape)[:, :6] += self._priors.gradient
            out[n : 2 * n].reshape(self._x.shape)[:, :6] += diagonal

    def _prior_blocks(self, blocks: np.ndarray, diagonal: np.ndarray | slice) -> None:
        """Add the priors' to the blocks of images."""
        if self._priors and self._keeps_poses:
            blocks[diagonal, :6, :6] += self._priors.hessian

    def _add_priors_to_v(self) -> None:
        """The same where poses are eliminated."""
        if self._priors and not self._keeps_poses:
            row, column = np.tril_indices(6)
            self._v[:, :21] += self._priors.hessian[self._mine][:, row, column]
            self._g[:, :6] += self._priors.gradient[self._mine]

    def _hold(self) -> None:
        """Clear the columns of the eliminated side that are fixed."""
        if self._held is not None:
            at = self.linearisation
            arrays = (at.start, self._held, at.jacobian, self._v, self._g)
            self._schur.hold(len(self._g), *map(address, arrays))


def shape_of(comm: MPI.Intracomm, problem: Problem) -> Shape:
    """How large the reduced system of a problem is (collective)."""
    layout, table = problem.layout, problem.table
    blocks, width = layout.columns.shape
    lengths = np.diff(table.start)
    counts = np.array([len(table.kept), int((lengths * (lengths + 1) // 2).sum())])
    observations, pairs = map(int, comm.allreduce(counts))
    pairs = min(pairs + blocks, blocks * (blocks + 1) // 2)
    eliminated = int(table.edges[-1])
    d = layout.eliminated_width
    return Shape(layout.size, blocks, width, eliminated, d, observations, pairs, comm.size)


def memory_of(problem: Problem) -> int:
    """Bytes of this rank that a system takes, without its solver."""
    layout, table = problem.layout, problem.table
    blocks, width = layout.columns.shape
    d = layout.eliminated_width
    packed = d * (d + 1) // 2
    of_observations = 8 * (2 * (width + d) + 2) * len(table.kept)
    of_blocks = 8 * (2 * packed + 2 * d + 1) * (len(table.start) - 1)
    return of_observations + of_blocks + 8 * 5 * blocks * width


def joined(comm: MPI.Intracomm, table: Table, n: int) -> np.ndarray:
    """i * n + j of all pairs i <= j of n kept blocks that an eliminated one joins, and of all i, i:
    sorted, the same on all ranks (collective).
    """
    mine = _keys(table, n, native.load(f"{_KERNELS}.setup").pairs)
    diagonal = np.arange(n, dtype=np.int64) * (n + 1)
    return np.unique(np.concatenate([diagonal, *comm.allgather(mine)]))


def _keys(table: Table, n: int, find: Callable[..., int]) -> np.ndarray:
    """i * n + j of all pairs i <= j of kept blocks that this rank's blocks join."""
    size = _table_size(4 * n + len(table.kept))
    while True:
        keys = np.full(size, -1, np.int64)
        arrays = [address(a) for a in (table.start, table.kept)]
        if find(len(table.start) - 1, *arrays, n, address(keys), size - 1) >= 0:
            return keys[keys >= 0]
        size *= 4


def _table_size(least: int) -> int:
    """The next power of two."""
    return 1 << max(4, least.bit_length())
