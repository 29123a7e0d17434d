"""What a solver of the reduced system is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpckit.sfm.bundle.system import ReducedSystem, Shape


class Solution(Protocol):
    """A solver that is bound to a system: made once, called in each iteration (collective)."""

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """The step x with S x = right, the same bits on all ranks, and how many iterations it took.

        tolerance : of iterative solvers, the forcing term |right - S x| <= tolerance |right|

        None where S is not positive definite as far as the solver can tell: the caller rejects the
        step and damps more. Never raises for that, never returns NaN.
        """
        ...


class Solver(Protocol):
    """A way to solve the reduced system."""

    name: str

    def possible(self, shape: Shape) -> str | None:
        """Why it cannot be used here, in half a sentence; None where it can."""
        ...

    def memory(self, shape: Shape) -> int:
        """Bytes that it takes on a rank, estimated before anything is allocated."""
        ...

    def bind(self, system: ReducedSystem) -> Solution:
        """Allocate, analyse the pattern, plan (collective)."""
        ...
