"""The reduced system: what is left of the normal equations when one side is eliminated.

The unknowns are blocks of two sides. *Kept* blocks (width D) are the same on all ranks, *eliminated*
blocks (width d) are cut over the ranks with their observations; an observation o joins kept block
k and eliminated block e by its residual r_o and its Jacobians Jk_o (2 x D) and Je_o (2 x d). With
U = sum Jk'Jk, W = sum Jk'Je, V = sum Je'Je + damping, the Schur complement of V is

    S = U - W V^-1 W',     S x = right = -(g_kept - W V^-1 g_eliminated),

of which the eliminated step is V^-1 (-g_eliminated - W'x) (Triggs et al., "Bundle Adjustment - A
Modern Synthesis", 2000, section 6). What is shared, fixed or padding is one linear map P: entry
`columns[k, a]` of x is column a of kept block k, and -1 is none. So the system that solvers see is
P'S P + diag(damping), of `size` unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mpi4py import MPI


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
    right : (size,) float64, the same on all ranks
    linearisation : this rank's Jacobians
    """

    comm: MPI.Intracomm
    shape: Shape
    columns: np.ndarray
    damping: np.ndarray
    right: np.ndarray
    linearisation: Linearisation

    def pattern(self) -> np.ndarray:
        """(pairs, 2) int32: kept blocks i <= j joined by an eliminated one, sorted, all (i, i) too.

        The same on all ranks and through the whole solve.
        """
        raise NotImplementedError

    def assemble(self, root: int | None = None) -> np.ndarray | None:
        """Blocks S_ij of the pattern, (pairs, D, D) float64, without `damping`; S_ji is S_ij'.

        Summed over ranks, on all of them or (`root`) on that one only, None elsewhere. The array is
        the system's own and is overwritten by the next call.
        """
        raise NotImplementedError

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = (P'S P + diag(damping)) x without ever forming S: one sum over ranks of `size`."""
        raise NotImplementedError

    def diagonal(self) -> np.ndarray:
        """(blocks, D, D) float64, the blocks S_kk, the same on all ranks, without `damping`.

        Terms between two observations of one eliminated block by the same kept one are left out: it
        is for preconditioners.
        """
        raise NotImplementedError

    def modes(self) -> np.ndarray | None:
        """(blocks, D, 7) float64: how the columns of each block change where the world is shifted
        along x, y, z, turned about them, and scaled; zeros for intrinsics. None where the kept
        blocks have no place in the world.
        """
        raise NotImplementedError

    def expand(self, x: np.ndarray, out: np.ndarray) -> None:
        """out = P x, (blocks, D): zero where a column has no entry of x."""
        raise NotImplementedError

    def collect(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """out = P' blocks, (size,): the sum of the columns that share an entry."""
        raise NotImplementedError
