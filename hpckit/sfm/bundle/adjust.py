"""`bundle_adjust`: the arguments, and one solve from the caller's frame to the caller's frame."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.errors import ConfigError, check_comm, same, together
from hpckit.log import get_logger
from hpckit.sfm.bundle.ambiguity import ambiguities
from hpckit.sfm.bundle.fixing import Free, free
from hpckit.sfm.bundle.frame import Frame, frame
from hpckit.sfm.bundle.levenberg_marquardt import Clock, LevenbergMarquardt, Limits, Progress
from hpckit.sfm.bundle.priors import Prior, Priors
from hpckit.sfm.bundle.problem import Problem, problem
from hpckit.sfm.bundle.result import FINISHED, TERMINATIONS, Iteration, Result
from hpckit.sfm.bundle.saving import Saved, Saving
from hpckit.sfm.bundle.solvers import SOLVERS
from hpckit.sfm.bundle.solvers.auto import Choice, Chosen, select
from hpckit.sfm.bundle.state import State
from hpckit.sfm.bundle.survey import Survey, survey
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.losses import Loss, robust
from hpckit.sfm.reconstruction import Reconstruction

_BEHIND = ("keep", "zero", "drop")
_SIDES = ("points", "poses")
_log = get_logger(__name__)


def bundle_adjust(
    reconstruction: Reconstruction,
    *,
    loss: Loss | None = None,
    solver: str = "auto",
    fix: Mapping[str, Any] | None = None,
    priors: Sequence[Prior] = (),
    behind: str | None = None,
    eliminate: str = "auto",
    max_iterations: int = 100,
    ftol: float = 1e-6,
    gtol: float = 0.0,
    radius: float = 1e4,
    reproducible: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    callback: Callable[[Iteration], object] | None = None,
) -> Result:
    """Move cameras and points so that points project to where images see them (collective).

    Minimises 1/2 sum rho(|r|^2) by Levenberg-Marquardt, r in pixels (Triggs et al., "Bundle
    Adjustment - A Modern Synthesis", 2000). Changes the reconstruction in place, at the end: on an
    error it is as it was. ::

        result = bundle_adjust(reconstruction, loss=Huber(1.0), fix={"poses": [1]})

    loss : `Huber`, `Cauchy` or `SoftL1`; None for squares
    solver : one of `SOLVERS`, or "auto", by the numbers of unknowns and the memory
    fix : what stays as it is. "intrinsics": True, False, or some of "focal", "principal_point",
        "distortion" (default "principal_point"); "cameras": ids; "poses": True, ids of images, or a
        mask (images,) or (images, 6) of rotation and translation; "points": True or a mask of this
        rank's points
    priors : `PositionPrior` and `PosePrior`, the same on all ranks
    behind : what becomes of points behind their camera; by default what the reconstruction says
    eliminate : "points", "poses", or "auto", the side of which there are more
    max_iterations, ftol, gtol : stop after so many, when the cost changes by no more than ftol of
        itself, or when no component of the gradient is above gtol
    radius : of the first trust region; a larger one damps less
    reproducible : the same bits on any number of ranks, a little slower
    checkpoint : a folder, where the solve is kept every `checkpoint_every` iterations; with
        `resume` it goes on from there, bit for bit (on another number of ranks if reproducible)
    callback : called with each `Iteration`, the start first, on all ranks; the solve ends there,
        "stopped" and to be resumed, if one rank's says True

    Raises `ConfigError` on all ranks for arguments that are wrong or differ between ranks, for
    numbers that are not finite, for what does not fit in memory, and where the cost at the start is
    not finite.
    """
    clock = Clock()
    check_comm(reconstruction.comm)
    comm = reconstruction.comm
    given = _Arguments(
        loss,
        solver,
        tuple(priors),
        behind or reconstruction.behind,
        eliminate,
        Limits(max_iterations, ftol, gtol),
        radius,
        reproducible,
        checkpoint_every,
    )
    with together(comm):
        given.check()
        masks = free(reconstruction, fix)
    where = checkpoint and os.fspath(checkpoint), resume, bool(callback)
    same(comm, "arguments of bundle_adjust", (given, where, masks.poses, masks.intrinsics))
    with clock.part("prepare"):
        surveyed = survey(reconstruction, masks, given.behind)
        side = _side(reconstruction, eliminate)
        space = frame(comm, reconstruction.points.xyz, _moves(masks))
        posed = problem(reconstruction, masks, space, surveyed, side, reproducible)
    if reason := _nothing_to_do(comm, surveyed, posed):
        return _unsolved(reason, surveyed, side)
    with clock.part("prepare"):
        saving = _saving(checkpoint, comm, posed, given, surveyed) if checkpoint else None
        begun = saving.load(posed.start) if saving and resume and saving.exists() else None
        before = begun.solver if begun else ""
        choice = select(comm, posed, solver, before, reproducible)
    space = begun.frame if begun else space
    job = _Solve(reconstruction, given, masks, surveyed, posed, space, clock, callback)
    final, termination, loop = job.run(choice, saving, begun)
    with clock.part("finish"):
        rms = job.finish(final)
        warnings = ambiguities(reconstruction, surveyed, bool(priors) or _is_fixed(comm, masks))
    if comm.rank == 0:
        for sentence in warnings:
            _log.warning("%s", sentence)
    return Result(
        loop.history[-1].cost,
        loop.history[0].cost,
        rms,
        termination,
        TERMINATIONS[termination],
        surveyed.total,
        side,
        job.solution.solver,
        job.solution.why,
        surveyed.dropped,
        loop.history,
        dict(clock.seconds),
        choice.memory,
        warnings,
    )


@dataclass(frozen=True)
class _Arguments:
    """What the user asks for, the same on all ranks."""

    loss: Loss | None
    solver: str
    priors: tuple[Prior, ...]
    behind: str
    eliminate: str
    limits: Limits
    radius: float
    reproducible: bool
    checkpoint_every: int

    def check(self) -> None:
        """`ConfigError` for what is impossible."""
        robust(self.loss)
        for name, value, allowed in (
            ("solver", self.solver, (*SOLVERS, "auto")),
            ("behind", self.behind, _BEHIND),
            ("eliminate", self.eliminate, (*_SIDES, "auto")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} {value!r}: give one of {', '.join(allowed)}")
        limits = self.limits
        for name, number, least in (
            ("max_iterations", limits.max_iterations, 0),
            ("checkpoint_every", self.checkpoint_every, 1),
        ):
            if not isinstance(number, Integral) or number < least:
                raise ConfigError(f"{name} {number!r}: give a whole number from {least} on")
        for name, tolerance in (("ftol", limits.ftol), ("gtol", limits.gtol)):
            if not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
                raise ConfigError(f"{name} {tolerance!r}: give a number from 0 on")
        if not isinstance(self.radius, Real) or not 0 < self.radius < math.inf:
            raise ConfigError(f"radius {self.radius!r}: give a positive number")


@dataclass
class _Solve:
    """One solve, when all is known to be possible."""

    reconstruction: Reconstruction
    given: _Arguments
    masks: Free
    surveyed: Survey
    posed: Problem
    space: Frame
    clock: Clock
    callback: Callable[[Iteration], object] | None

    def run(
        self, choice: Choice, saving: Saving | None, begun: Saved | None
    ) -> tuple[State, str, LevenbergMarquardt]:
        """The last state, why it ended, and the loop with its history (collective)."""
        comm, images, given = self.reconstruction.comm, self.reconstruction.images, self.given
        start, progress, history = self.posed.start, Progress(math.nan, given.radius), []
        if begun:
            start, progress, history = begun.state, begun.progress, begun.history
        with self.clock.part("prepare"):
            with together(comm):
                priors = Priors(comm, given.priors, images, self.space)
            self._system = self._new_system(priors if given.priors else None)
            self.solution = Chosen(self._system, choice)
        loop = LevenbergMarquardt(self._system, self.posed, self.solution, self.clock, history)
        every, known = given.checkpoint_every, progress.done

        def save(state: State, finished: bool) -> None:
            if saving:
                saved = Saved(state, progress, loop.history, self.space, self.solution.solver)
                saving.save(saved, finished)

        def tell(iteration: Iteration, state: State, progress: Progress) -> bool:
            stop, number = False, iteration.number
            if self.callback:
                with together(comm):
                    stop = self.callback(iteration) is True
                stop = comm.allreduce(stop, MPI.LOR)
            if number and number % every == 0:
                save(state, finished=False)
            return stop

        final, termination = loop.run(start, progress, given.limits, tell)
        finished = termination in FINISHED
        if progress.done > known and (finished or progress.done % every):
            save(final, finished)
        return final, termination, loop

    def finish(self, final: State) -> float:
        """Write back what changed; the root of the mean squared distance in pixels."""
        comm = self.reconstruction.comm
        plain = self._system.reprojection_cost(final)
        whole = self.posed.whole(comm, final)
        points = self.posed.points_of(comm, final)
        self._write_back(whole, points)
        return math.sqrt(2 * plain / self.surveyed.total)

    def _write_back(self, whole: State, points: np.ndarray) -> None:
        """What was free and is observed; all else keeps its bits."""
        images, space = self.reconstruction.images, self.space
        moved = self.masks.points & (np.diff(self.surveyed.start) > 0)
        self.reconstruction.points.xyz[moved] = space.points_out(points[moved])
        moved = self.masks.poses.any(axis=1) & (self.surveyed.observations_of_image > 0)
        translation = space.translations_out(whole.quaternion, whole.translation)
        images.quaternion[moved] = whole.quaternion[moved]
        images.translation[moved] = translation[moved]
        self.reconstruction.cameras.parameters[:] = whole.parameters

    def _new_system(self, priors: Priors | None) -> ReducedSystem:
        return ReducedSystem(
            self.reconstruction.comm,
            self.posed,
            self.reconstruction.cameras,
            robust=robust(self.given.loss),
            behind=self.given.behind,
            priors=priors,
            reproducible=self.given.reproducible,
        )


def _is_fixed(comm: MPI.Intracomm, masks: Free) -> bool:
    """Whether any pose or point is (collective)."""
    return not masks.poses.all() or comm.allreduce(bool(not masks.points.all()), MPI.LOR)


def _moves(masks: Free) -> bool:
    """Whether the centre may move: not if a translation is fixed of which the rotation is free."""
    turns = masks.poses[:, :3].any(axis=1)
    return not (turns & ~masks.poses[:, 3:].all(axis=1)).any()


def _side(reconstruction: Reconstruction, wanted: str) -> str:
    """What is eliminated: the side of which there are more."""
    if wanted != "auto":
        return wanted
    points = reconstruction.comm.allreduce(len(reconstruction.points))
    return "poses" if len(reconstruction.images) > points else "points"


def _nothing_to_do(comm: MPI.Intracomm, surveyed: Survey, posed: Problem) -> str | None:
    """Why there is nothing to solve, as a termination."""
    if not surveyed.total:
        return "no_residuals"
    there = np.diff(posed.table.start) > 0
    free = there if posed.held is None else there & posed.held.any(axis=1)
    if not posed.layout.size and not comm.allreduce(bool(free.any()), MPI.LOR):
        return "all_fixed"
    return None


def _unsolved(reason: str, surveyed: Survey, side: str) -> Result:
    message, alone = TERMINATIONS[reason], surveyed.dropped.one_view
    if reason == "no_residuals" and alone:
        message = f"one view fixes nothing: each of the {alone} points is seen by one image alone"
    return Result(
        math.nan,
        math.nan,
        math.nan,
        reason,
        message,
        surveyed.total,
        side,
        "",
        message,
        surveyed.dropped,
    )


def _saving(
    checkpoint: str | os.PathLike[str],
    comm: MPI.Intracomm,
    posed: Problem,
    given: _Arguments,
    surveyed: Survey,
) -> Saving:
    size, blocks = posed.layout.size, posed.layout.columns.shape
    identity = (
        f"{surveyed.total} observations, {size} unknowns in {blocks[0]} blocks of {blocks[1]}, "
        f"{posed.layout.side} eliminated, loss {given.loss}, behind {given.behind!r}, "
        f"reproducible {given.reproducible}"
    )
    return Saving(checkpoint, comm, posed, identity)
