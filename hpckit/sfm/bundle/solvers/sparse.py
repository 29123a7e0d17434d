"""Direct: the reduced system as a sparse matrix, factored on the first rank.

On several ranks its blocks are summed there, half of a symmetric matrix, and the solution is sent
to all. That serial part is small beside the assembly, which all ranks share: 0.15 s for a loop of
1000 cameras that each meet 24 others on either side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpckit.errors import together
from hpckit.sfm.bundle.solvers import fronts
from hpckit.sfm.bundle.solvers.cholesky import Cholesky

if TYPE_CHECKING:
    from hpckit.sfm.bundle.system import ReducedSystem, Shape

_FILL = 6  # numbers in the factor for each in the matrix, of long and thin scenes


class Sparse:
    """Sparse Cholesky of the reduced system (see `hpckit.sfm.bundle.solvers.solver`). ::

    solution = Sparse().bind(system)
    x, iterations = solution.solve(0.0)
    """

    name = "sparse"

    def possible(self, shape: Shape) -> str | None:
        """Of so many kept blocks, not more."""
        if shape.blocks <= fronts.NODES:
            return None
        return f"it orders up to {fronts.NODES} kept blocks, these are {shape.blocks}"

    def memory(self, shape: Shape) -> int:
        """Matrix and factor, guessed: the fill is known when the pattern is analysed."""
        matrix = shape.pairs * shape.width**2
        return 8 * (matrix + min(_FILL * matrix, shape.size * (shape.size + 1) // 2))

    def bind(self, system: ReducedSystem) -> _Factored:
        """Analyse the pattern, on the first rank (collective)."""
        return _Factored(system)


class _Factored:
    def __init__(self, system: ReducedSystem) -> None:
        self._system = system
        pairs = system.pattern()
        self._answer = np.empty(system.shape.size + 1)  # the solution, and whether there is one
        with together(system.comm):
            if system.comm.rank == 0:
                self._cholesky = Cholesky(system.columns, pairs, system.shape.size)

    def solve(self, tolerance: float) -> tuple[np.ndarray, int] | None:
        """The solution to rounding; `tolerance` is not needed."""
        system, answer = self._system, self._answer
        blocks = system.assemble(root=0)
        with together(system.comm):
            if blocks is not None:
                answer[-1] = self._cholesky.factor(blocks, system.damping)
                if answer[-1]:
                    answer[:-1] = self._cholesky.solve(system.right)
                    answer[-1] = np.isfinite(answer).all()
        system.comm.Bcast(answer)
        return (answer[:-1].copy(), 1) if answer[-1] else None
