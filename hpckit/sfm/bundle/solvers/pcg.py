"""Conjugate gradients that never form the reduced matrix, with a block-Jacobi preconditioner."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hpckit import native
from hpckit.native import address
from hpckit.sfm.bundle.system import ReducedSystem, Shape

MOST = 500  # iterations


class Preconditioner(Protocol):
    """An approximate inverse of the reduced matrix (collective)."""

    def update(self) -> None:
        """For the system's linearisation and damping of now."""
        ...

    def start(self, b: np.ndarray, x: np.ndarray, r: np.ndarray) -> float:
        """Set x to where to start and r to b - S x; the square of the norm of b that residuals are
        compared with.
        """
        ...

    def __call__(self, r: np.ndarray, out: np.ndarray) -> None:
        """out = M^-1 r, the same bits on all ranks."""
        ...


class SchurJacobi:
    """The inverse blocks on the diagonal of S, of an image and its camera, or a shared camera."""

    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        layout = system.layout
        self._setup = native.load("hpckit.sfm.kernels.setup")
        self._group, self._first = layout.group, layout.first
        widths = np.bincount(layout.group, minlength=len(layout.first))
        self._widest = max(1, int(widths.max(initial=1)))
        self._at = np.arange(layout.size) - layout.first[layout.group]
        shape = (len(layout.first), self._widest, self._widest)
        self._blocks = np.zeros(shape)
        self._padding = np.arange(self._widest) >= widths[:, None]
        self._inverse = np.zeros(shape)

    def update(self) -> None:
        system, blocks = self._system, self._blocks
        blocks[:] = 0
        diagonal = system.diagonal()
        arrays = (diagonal, self._group, self._first)
        self._setup.gather(
            len(diagonal),
            address(system.columns),
            system.shape.width,
            *map(address, arrays),
            self._widest,
            address(blocks),
        )
        blocks[self._group, self._at, self._at] += system.damping
        group, column = np.nonzero(self._padding)
        blocks[group, column, column] = 1
        if system.comm.rank == 0:
            try:
                self._inverse[:] = np.linalg.inv(blocks)
            except np.linalg.LinAlgError:
                self._inverse[:] = np.nan
        # One rank's, for libraries may round differently from process to process.
        system.comm.Bcast(self._inverse)

    def start(self, b: np.ndarray, x: np.ndarray, r: np.ndarray) -> float:
        self(b, r)
        size = self._setup.dot(len(b), address(b), address(r))
        x[:] = 0
        r[:] = b
        return size

    def __call__(self, r: np.ndarray, out: np.ndarray) -> None:
        arrays = [address(a) for a in (self._inverse, r, out)]
        n = len(self._first), address(self._first), len(r), self._widest
        self._setup.apply(*n, *arrays)


class Pcg:
    """For any number of kept blocks: memory for a few vectors."""

    name = "pcg"

    def possible(self, shape: Shape) -> str | None:
        return None

    def memory(self, shape: Shape) -> int:
        return 8 * (shape.blocks * (3 * shape.width**2 + 2 * shape.width) + 6 * shape.size)

    def bind(self, system: ReducedSystem) -> ConjugateGradients:
        return ConjugateGradients(system, SchurJacobi(system))


class ConjugateGradients:
    """Preconditioned conjugate gradients (Hestenes & Stiefel 1952) on the implicit system.

    They stop when the residual in the norm of M^-1 is `tolerance` of the right-hand side's.
    """

    def __init__(self, system: ReducedSystem, preconditioner: Preconditioner) -> None:
        self._system = system
        self._preconditioner = preconditioner
        self._kernel = native.load("hpckit.sfm.kernels.setup").dot
        self._r, self._z, self._p, self._q = np.empty((4, system.shape.size))

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """The step; None where S is found not to be positive definite."""
        self._preconditioner.update()
        r, z, p, q = self._r, self._z, self._p, self._q
        x = np.empty(len(r))
        first = self._preconditioner.start(self._system.right, x, r)
        self._preconditioner(r, z)
        p[:] = z
        rz = self._dot(r, z)
        if not np.isfinite(first + rz):
            return None
        iterations = 0
        while rz > tolerance**2 * first and iterations < MOST:  # not if it is NaN
            iterations += 1
            self._system.multiply(p, q)
            curvature = self._dot(p, q)
            if not 0 < curvature < np.inf:
                return None
            alpha = rz / curvature
            x += alpha * p
            r -= alpha * q
            self._preconditioner(r, z)
            before, rz = rz, self._dot(r, z)
            p *= rz / before
            p += z
        return (x, iterations) if np.isfinite(rz) else None

    def _dot(self, a: np.ndarray, b: np.ndarray) -> float:
        return self._kernel(len(a), address(a), address(b))
