"""Sparse Cholesky factorisation of a matrix of blocks: numeric, on one rank.

Multifrontal: each front is assembled from its blocks and its children's updates, its columns are
factored, and what they subtract from the rest is the update of its own (Duff & Reid, ACM TOMS 9,
1983). The arithmetic is LAPACK's; nothing is allocated after the first factorisation.
"""

from __future__ import annotations

import itertools

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.solvers import fronts


class Cholesky:
    """A = L L^T of P^T S P, where S has D x D blocks and P says what each column stands for.

    columns : (blocks, D) int, scalar of each column of each block, -1 for none: P
    pairs : (n, 2) int, blocks i <= j of S that are not zero
    size : scalars

    ::

        cholesky = Cholesky(columns, pairs, size)
        if cholesky.factor(values, damping):  # (n, D, D) and (size,) float64
            x = cholesky.solve(b)
    """

    def __init__(self, columns: np.ndarray, pairs: np.ndarray, size: int) -> None:
        self.symbolic = fronts.analyse(columns, pairs, size)
        self._kernels = native.load("hpckit.sfm.kernels.cholesky")
        position = self.symbolic.position
        self._position = np.where(columns >= 0, np.append(position, -1)[columns], -1)
        self._ends = np.ascontiguousarray(pairs, np.int64)
        self._local = np.empty(size, np.int64)
        self._numbers = [_Numbers(front) for front in self.symbolic.fronts]
        self._share_updates()
        for numbers, mine in zip(self._numbers, self._pairs_by_front(columns), strict=True):
            numbers.pairs = mine

    def factor(self, blocks: np.ndarray, diagonal: np.ndarray | float = 0.0) -> bool:
        """Factor P^T S P + diag(diagonal); False where that is not positive definite or not finite.

        blocks : (pairs, D, D) float64, S of each pair; of i = j the lower half is read
        diagonal : (size,) float64, or one number
        """
        from scipy.linalg.blas import dsyrk, dtrsm  # pyright: ignore[reportAttributeAccessIssue]
        from scipy.linalg.lapack import dpotrf  # pyright: ignore[reportAttributeAccessIssue]

        blocks = np.ascontiguousarray(blocks, np.float64)
        added = np.empty(len(self.symbolic.position))
        added[self.symbolic.position] = diagonal
        for numbers in self._numbers:
            self._assemble(numbers, blocks)
            numbers.trace += added[numbers.mine]
            if not np.isfinite(numbers.trace).all():  # LAPACK does not always notice
                return False
            if dpotrf(numbers.diagonal, lower=1, clean=0, overwrite_a=1)[1]:
                return False
            if len(numbers.front.rows):
                dtrsm(
                    1.0,
                    numbers.diagonal,
                    numbers.below,
                    side=1,
                    lower=1,
                    trans_a=1,
                    overwrite_b=1,
                )
                dsyrk(-1.0, numbers.below, 1.0, numbers.update, lower=1, overwrite_c=1)
        return True

    def solve(self, b: np.ndarray) -> np.ndarray:
        """x of A x = b: (size,) or (size, n) float64, of the matrix that was factored last."""
        from scipy.linalg.blas import dtrsm  # pyright: ignore[reportAttributeAccessIssue]

        x = np.empty((len(self.symbolic.position), *b.shape[1:]), order="F")
        x[self.symbolic.position] = b
        x = x.reshape(len(x), -1)
        for numbers in self._numbers:
            mine, rows = numbers.mine, numbers.front.rows
            x[mine] = dtrsm(1.0, numbers.diagonal, x[mine], lower=1)
            x[rows] -= numbers.below @ x[mine]
        for numbers in reversed(self._numbers):
            mine, rows = numbers.mine, numbers.front.rows
            part = x[mine] - numbers.below.T @ x[rows]
            x[mine] = dtrsm(1.0, numbers.diagonal, part, lower=1, trans_a=1)
        return x[self.symbolic.position].reshape(b.shape)

    @property
    def least_pivot(self) -> float:
        """The smallest pivot of the last factorisation: no more than rounding if A is singular."""
        return min(float(numbers.trace.min()) for numbers in self._numbers) ** 2

    def _assemble(self, numbers: _Numbers, blocks: np.ndarray) -> None:
        front = numbers.front
        out = numbers.addresses
        self._kernels.start_front(
            front.k,
            front.first,
            address(front.rows),
            front.m,
            address(self._local),
            len(numbers.pairs),
            address(numbers.pairs),
            address(self._ends),
            blocks.shape[1],
            address(self._position),
            address(blocks),
            *out,
        )
        for c in front.children:
            child = self._numbers[c]
            rows = child.front.rows
            self._kernels.add_child(
                front.k,
                front.m,
                address(self._local),
                address(rows),
                len(rows),
                address(child.update),
                *out,
            )

    def _share_updates(self) -> None:
        """Give each front's update room that no other one needs at that time."""
        free: list[np.ndarray] = []
        for numbers in self._numbers:
            need = len(numbers.front.rows) ** 2
            free.sort(key=lambda room: room.size)
            fits = next((i for i, room in enumerate(free) if room.size >= need), None)
            if fits is None and free:
                free.pop()  # the largest gives way to one that is large enough
            room = np.empty(need) if fits is None else free.pop(fits)
            numbers.give(room)
            free += [self._numbers[c].room for c in numbers.front.children]

    def _pairs_by_front(self, columns: np.ndarray) -> list[np.ndarray]:
        """Pairs with an entry in the columns of each front, ascending."""
        n = len(self._numbers)
        front = np.empty(len(self.symbolic.position), np.int64)
        for i, numbers in enumerate(self._numbers):
            front[numbers.mine] = i
        label = front[self.symbolic.position]
        met = [
            np.unique(np.minimum(i, j) * len(self._ends) + which)
            for i, j, which in fronts.block_labels(columns, label, self._ends)
        ]
        found = np.unique(np.concatenate(met))
        starts = np.searchsorted(found, np.arange(n + 1) * len(self._ends))
        which = found % len(self._ends)
        return [which[a:b] for a, b in itertools.pairwise(starts)]


class _Numbers:
    """The values of a front: L of its columns, of the rows below, and what the rest gets."""

    def __init__(self, front: fronts.Front) -> None:
        q = len(front.rows)
        self.front = front
        self.mine = slice(front.first, front.first + front.k)
        self.diagonal = np.empty((front.k, front.k), order="F")
        self.trace = self.diagonal.reshape(-1, order="F")[:: front.k + 1]
        self.below = np.empty((q, front.k), order="F")
        self.pairs = np.empty(0, np.int64)

    def give(self, room: np.ndarray) -> None:
        """Memory for the update: at least (m - k)**2 numbers."""
        q = len(self.front.rows)
        self.room = room
        self.update = room[: q * q].reshape((q, q), order="F")
        self.addresses = [address(a) for a in (self.diagonal, self.below, self.update)]
