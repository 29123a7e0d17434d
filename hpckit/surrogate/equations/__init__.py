"""The solvers of surrogate studies that hpckit brings: equations of `hpckit.pde`, ready to run.

Each is a `hpckit.surrogate.solver.Solver` on the ranks of a group, in a file of its own. Parameters
are those that the literature trains on; grid and times are the constructors'. All but heat are
periodic, give values at the points i h, and the initial fields as step 0.
"""

from __future__ import annotations

from typing import Any

from hpckit.surrogate.equations.advection import Advection
from hpckit.surrogate.equations.burgers import Burgers
from hpckit.surrogate.equations.combined import Combined
from hpckit.surrogate.equations.gray_scott import GrayScott
from hpckit.surrogate.equations.heat import Heat

SOLVERS: dict[str, Any] = {
    "heat": Heat,
    "burgers": Burgers,
    "combined": Combined,
    "gray_scott": GrayScott,
    "advection": Advection,
}

__all__ = ["SOLVERS", "Advection", "Burgers", "Combined", "GrayScott", "Heat"]
