"""Levenberg-Marquardt: damped Gauss-Newton steps, as long as they lower the cost.

A step solves (H + diag(H) / radius) x = -g with diag(H) clipped to [1e-6, 1e32]. It is taken if it
gains more than a thousandth of what the linear model says; rho is the quotient. The radius grows by
1 / max(1/3, 1 - (2 rho - 1)^3) after a step, and falls by 2, 4, 8 ... while steps fail (Madsen,
Nielsen & Tingleff, "Methods for non-linear least squares problems", 2004, section 3.2, with the
constants of Ceres).
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hpckit.errors import ConfigError
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.result import Iteration
from hpckit.sfm.bundle.solvers.solver import Solution
from hpckit.sfm.bundle.state import State
from hpckit.sfm.bundle.system import ReducedSystem

_GAIN = 1e-3  # of what the model says, for a step to be taken
_LEAST_RADIUS = 1e-32
_MOST_RADIUS = 1e16
_FORCING = 0.01  # of iterative solvers; a tenth of it after a step that the model got wrong


@dataclass
class Progress:
    """Where a solve is: what a checkpoint needs besides the state."""

    cost: float
    radius: float
    fall: float = 2.0  # by which the radius falls at the next failure
    rho: float = 1.0
    done: int = 0  # iterations


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._began = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def now(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._began


@dataclass(frozen=True)
class Limits:
    """When to stop."""

    max_iterations: int
    ftol: float
    gtol: float


class LevenbergMarquardt:
    """The loop; the same decisions on all ranks, of the same numbers."""

    def __init__(
        self,
        system: ReducedSystem,
        problem: Problem,
        solution: Solution,
        clock: Clock,
        history: list[Iteration],
    ) -> None:
        self._system = system
        self._problem = problem
        self._solution = solution
        self._clock = clock
        self.history = history
        self._before = history[-1].seconds if history else 0.0

    def run(
        self,
        state: State,
        progress: Progress,
        limits: Limits,
        tell: Callable[[Iteration, State, Progress], bool],
    ) -> tuple[State, str]:
        """The last state that was accepted, and why it ended (collective).

        tell : what to call after each iteration, and whether to stop
        """
        with self._clock.part("linearise"):
            cost = self._system.linearise(state)
            gradient = self._system.largest_gradient()
        if not self.history:  # else it was summed in another order, and its last bits are known
            progress.cost = cost
        if not math.isfinite(progress.cost):
            raise ConfigError(
                f"the cost at the start is {progress.cost}: a point lies in the plane of an image "
                'that sees it, or numbers are huge; leave it out, or use behind="drop"'
            )
        if not self.history:
            self._note(
                Iteration(
                    0, progress.cost, 0.0, gradient, 0.0, progress.radius, 0, self._seconds(), True
                )
            )
            if tell(self.history[-1], state, progress):
                return state, "stopped"
        elif self._stood_still(limits):
            return state, "converged_f"
        while True:
            if gradient <= limits.gtol or progress.cost == 0:
                return state, "converged_g" if progress.cost else "converged_f"
            if progress.done >= limits.max_iterations:
                return state, "max_iterations"
            if progress.radius < _LEAST_RADIUS:
                return state, "radius"
            progress.done += 1
            radius = progress.radius
            trial, cost, model, linear = self._step(state, progress)
            change = progress.cost - cost
            progress.rho = change / model if model > 0 else math.nan
            accepted = trial is not None and model > 0 and progress.rho > _GAIN
            still = trial is not None and abs(change) <= limits.ftol * progress.cost
            if accepted and trial is not None:
                state = trial
                progress.cost = cost
                shrink = max(1 / 3, 1 - (2 * progress.rho - 1) ** 3)
                progress.radius = min(_MOST_RADIUS, radius / shrink)
                progress.fall = 2.0
                if not still or limits.gtol > 0:
                    with self._clock.part("linearise"):
                        self._system.linearise(state)
                        gradient = self._system.largest_gradient()
            else:
                progress.radius = radius / progress.fall
                progress.fall *= 2
            self._note(
                Iteration(
                    progress.done,
                    progress.cost,
                    change,
                    gradient,
                    progress.rho,
                    radius,
                    linear,
                    self._seconds(),
                    accepted,
                )
            )
            stop = tell(self.history[-1], state, progress)
            if still:
                return state, "converged_f"
            if stop:
                return state, "stopped"

    def _step(self, state: State, progress: Progress) -> tuple[State | None, float, float, int]:
        """The state after a step, None if there is none; its cost; what the model gains; and
        iterations of the solver.
        """
        part, system = self._clock.part, self._system
        nothing = None, math.inf, 0.0, 0
        with part("eliminate"):
            if not system.damp(progress.radius):
                return nothing
        with part("solve"):
            tolerance = _FORCING if progress.rho >= 0.5 else 0.1 * _FORCING
            found = self._solution.solve(tolerance)
        if found is None:
            return nothing
        with part("substitute"):
            step, model = system.substitute(found[0])
        if not (math.isfinite(model) and model > 0):
            return None, math.inf, 0.0, found[1]
        with part("cost"):
            problem = self._problem
            trial = state.moved(problem.layout, found[0], step, problem.mine, problem.camera)
            cost = system.cost(trial)
        return trial, cost if np.isfinite(cost) else math.inf, model, found[1]

    def _stood_still(self, limits: Limits) -> bool:
        """Whether a solve that is resumed had converged."""
        if len(self.history) < 2:
            return False
        before, last = self.history[-2:]
        return abs(last.change) <= limits.ftol * before.cost

    def _seconds(self) -> float:
        return self._before + self._clock.now()

    def _note(self, iteration: Iteration) -> None:
        self.history.append(iteration)
