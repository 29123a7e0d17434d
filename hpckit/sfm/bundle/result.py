"""What `bundle_adjust` tells of a solve."""

from __future__ import annotations

from dataclasses import dataclass, field

from hpckit.sfm.bundle.survey import Dropped

# Why a solve ended, and what that means.
TERMINATIONS = {
    "converged_f": "the cost changed by less than ftol of itself",
    "converged_g": "the gradient is below gtol",
    "max_iterations": "the iterations are used up",
    "radius": "no step lowers the cost any more",
    "stopped": "the callback asked for it",
    "no_residuals": "nothing is observed that could be adjusted",
    "all_fixed": "everything is fixed",
}
FINISHED = ("converged_f", "converged_g", "radius")  # those after which nothing is left to do


@dataclass(frozen=True)
class Iteration:
    """One iteration, the first of which is the start."""

    number: int
    cost: float  # after it
    change: float  # by how much the step would lower the cost
    gradient: float  # the largest component, in the frame of the solver
    rho: float  # change / change that the linear model said
    radius: float  # of the trust region, for this step
    linear_iterations: int  # of the solver
    seconds: float  # since the beginning
    accepted: bool


@dataclass
class Result:
    """The same on all ranks but for `dropped.points`.

    cost, initial_cost : 1/2 sum rho(|r|^2) in square pixels, priors included
    rms_px : sqrt(sum |r|^2 / observations) at the end, of the plain residuals
    termination : one of `TERMINATIONS`; message : the same in a sentence
    eliminated : "points" or "poses"
    solver : the one that was used, in the end; why : half a sentence
    warnings : what the images leave open, in a sentence each; the log says it too
    memory : bytes of this rank, as estimated before the solve
    seconds : by part of the solve

    ::

        result = bundle_adjust(reconstruction)
        print(result.termination, result.rms_px, len(result.history))
    """

    cost: float
    initial_cost: float
    rms_px: float
    termination: str
    message: str
    observations: int
    eliminated: str
    solver: str
    why: str
    dropped: Dropped
    history: list[Iteration] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def converged(self) -> bool:
        """Whether it ended because there was nothing left to gain."""
        return self.termination.startswith("converged")
