"""The combined equation, forced by random waves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hpckit import pde
from hpckit.errors import ConfigError
from hpckit.pde.combined import Term, forcing_at
from hpckit.surrogate.equations.periodic import check, ring
from hpckit.surrogate.equations.pool import Pool
from hpckit.surrogate.space import Box

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import DTypeLike

    from hpckit.surrogate.equations.periodic import Steps


_LENGTH = 16.0
_TERMS = 5  # of the forcing
_CASES = {  # coefficients as numbers or ranges, and the last time
    "E1": ({"alpha": 1.0, "beta": 0.0, "gamma": 0.0}, 4.0),
    "E2": ({"alpha": 1.0, "beta": (0.0, 0.2), "gamma": 0.0}, 4.0),
    "E3": ({"alpha": (0.0, 6.0), "beta": (0.1, 0.4), "gamma": (0.0, 1.0)}, 2.0),
}


class Combined:
    """Burgers, heat and Korteweg-de Vries, forced, in an interval of length 16; `u`.

    The cases of Brandstetter, Worrall & Welling (2022). Parameters: of each of five waves, which
    force and are the start, `A1`, `omega1`, `l1` (1 wave where it is below 2, else 2), `phi1`, ...;
    and of alpha, beta and gamma: E1 none, E2 `beta`, E3 all.

    Parameters
    ----------
    case : E1 steepens, E2 spreads too, E3 disperses too.
    shape, thin : points that are solved on, of which every so many-th is given.
    steps : how many fields, evenly from time 0 to 4 (E3: 2).
    dtype, method : as `hpckit.pde.Combined` takes them.

    ::

        study = Study(Combined("E3"), "conv", view="window:2")
    """

    def __init__(
        self,
        case: Literal["E1", "E2", "E3"] = "E3",
        *,
        shape: Sequence[int] = (200,),
        thin: int = 2,
        steps: int = 250,
        dtype: DTypeLike = float,
        method: str = "auto",
    ) -> None:
        check(shape, 1, thin)
        if case not in _CASES or steps < 2:
            raise ConfigError(
                f"case {case!r} must be one of {', '.join(_CASES)}, and steps = {steps} at least 2"
            )
        self.coefficients, end = _CASES[case]
        ranges = {"A": (-0.5, 0.5), "omega": (-0.4, 0.4), "l": (1, 3), "phi": (0, 2 * math.pi)}
        terms = {f"{name}{j}": ends for j in range(1, _TERMS + 1) for name, ends in ranges.items()}
        own = {name: ends for name, ends in self.coefficients.items() if isinstance(ends, tuple)}
        self.space = Box(**terms, **own)
        self.fields = {"u": (shape[0] // thin,)}
        self.steps = steps
        self.dt = end / (steps - 1)
        self.end = end
        self.about = {
            "equation": "u_t + (alpha u^2/2)_x - beta u_xx + gamma u_xxx = delta(t, x)",
            "case": case,
            "domain": [_LENGTH],
            "dt": self.dt,
            "values": "points",
        }
        physics = {"speed": 1.0, "forcing": [(0.0, 0.0, 1, 0.0)] * _TERMS}
        numerics = {"dtype": dtype, "method": method}
        h = _LENGTH / shape[0]
        self._pool = Pool(
            lambda comm: pde.Combined(ring(comm, shape), h, **physics, **numerics), thin
        )

    def run(self, parameters: dict[str, float], comm: MPI.Intracomm) -> Steps:
        """One simulation, as `Solver.run`."""
        march = self._pool.take(comm)
        solver = march.solver
        h = solver.spacing
        terms = self.terms(parameters)
        # Unforced and without dispersion |u| stays below the start's; forcing adds to it.
        speed = max(sum(abs(term.amplitude) for term in terms) * (1 + self.end), 1e-6)
        half = math.pi * h / _LENGTH  # values are at points, the solver's at centres
        shifted = [term._replace(phase=term.phase - half * term.waves) for term in terms]
        values = {name: parameters.get(name, fixed) for name, fixed in self.coefficients.items()}
        solver.change(**values, forcing=shifted, speed=speed)
        x = np.arange(solver.grid.start[0], solver.grid.stop[0]) * h
        solver.set("u", forcing_at(terms, x, 0.0, _LENGTH))
        yield from self._pool.run(march, self.steps, self.dt)

    def terms(self, parameters: dict[str, float]) -> list[Term]:
        """The forcing that parameters mean."""
        p = parameters
        return [
            Term(p[f"A{j}"], p[f"omega{j}"], min(int(p[f"l{j}"]), 2), p[f"phi{j}"])
            for j in range(1, _TERMS + 1)
        ]
