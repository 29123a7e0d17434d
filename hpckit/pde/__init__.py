"""Solvers on a grid, and the equations that programs solve with them: one file per equation.

A new equation is a file with a subclass of `Equation`, and a line in `EQUATIONS`; its name there is
that of its section of a case file. docs/equations.md has the recipe.
"""

from __future__ import annotations

from typing import Any

from hpckit.pde.advection import Advection, AdvectionEquation
from hpckit.pde.burgers import Burgers, BurgersEquation
from hpckit.pde.combined import Combined, CombinedEquation
from hpckit.pde.equation import Cost, Equation, Picture, Setup
from hpckit.pde.gray_scott import GrayScott, GrayScottEquation
from hpckit.pde.heat import Heat, HeatEquation, ImplicitHeat
from hpckit.pde.hillslope import Hillslope, HillslopeEquation
from hpckit.pde.shallow_water import ShallowWater
from hpckit.pde.solver import Solver
from hpckit.pde.tsunami import TsunamiEquation

EQUATIONS: dict[str, type[Equation[Any, Any]]] = {
    "heat": HeatEquation,
    "tsunami": TsunamiEquation,
    "hillslope": HillslopeEquation,
    "burgers": BurgersEquation,
    "combined": CombinedEquation,
    "gray_scott": GrayScottEquation,
    "advection": AdvectionEquation,
}

__all__ = [
    "EQUATIONS",
    "Advection",
    "Burgers",
    "Combined",
    "Cost",
    "Equation",
    "GrayScott",
    "Heat",
    "Hillslope",
    "ImplicitHeat",
    "Picture",
    "Setup",
    "ShallowWater",
    "Solver",
]
