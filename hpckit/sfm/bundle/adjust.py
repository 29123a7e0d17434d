"""`bundle_adjust`: the arguments, and one solve from the caller's frame to the caller's frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hpckit.errors import ConfigError, same, together
from hpckit.log import get_logger
from hpckit.sfm.bundle.fixing import Free, free
from hpckit.sfm.bundle.frame import frame
from hpckit.sfm.bundle.levenberg_marquardt import Clock, LevenbergMarquardt, Limits, Progress
from hpckit.sfm.bundle.problem import Problem, problem
from hpckit.sfm.bundle.result import TERMINATIONS, Iteration, Result
from hpckit.sfm.bundle.solvers import SOLVERS
from hpckit.sfm.bundle.survey import Survey, survey
from hpckit.sfm.bundle.system import ReducedSystem
from hpckit.sfm.losses import Loss, robust
from hpckit.sfm.reconstruction import Reconstruction

_BEHIND = ("keep", "zero", "drop")
_log = get_logger(__name__)


def bundle_adjust(
    reconstruction: Reconstruction,
    *,
    loss: Loss | None = None,
    solver: str = "auto",
    fix: Mapping[str, Any] | None = None,
    behind: str | None = None,
    eliminate: str = "auto",
    max_iterations: int = 50,
    ftol: float = 1e-6,
    gtol: float = 0.0,
    radius: float = 1e4,
    reproducible: bool = False,
    callback: Callable[[Iteration], object] | None = None,
) -> Result:
    """Move cameras and points so that points project to where images see them (collective).

    Minimises 1/2 sum rho(|r|^2) by Levenberg-Marquardt, r in pixels (Triggs et al., "Bundle
    Adjustment - A Modern Synthesis", 2000). Changes the reconstruction in place, at the end: on an
    error it is as it was. ::

        result = bundle_adjust(reconstruction, loss=Huber(1.0), fix={"poses": [1]})

    loss : `Huber`, `Cauchy` or `SoftL1`; None for squares
    solver : "dense", "pcg" or "auto"
    fix : what stays as it is. "intrinsics": True, False, or some of "focal", "principal_point",
        "distortion" (default "principal_point"); "cameras": ids; "poses": True, ids of images, or a
        mask (images,) or (images, 6) of rotation and translation; "points": True or a mask of this
        rank's points
    behind : what becomes of points behind their camera; by default what the reconstruction says
    eliminate : "points", "poses", or "auto", the side of which there are more
    max_iterations, ftol, gtol : stop after so many, when the cost changes by no more than ftol of
        itself, or when no component of the gradient is above gtol
    radius : of the first trust region; a larger one damps less
    reproducible : the same bits on any number of ranks, a little slower
    callback : called with each `Iteration` on all ranks

    Raises `ConfigError` on all ranks for arguments that are wrong or differ between ranks, for
    numbers that are not finite, and where the cost at the start is not.
    """
    clock, comm = Clock(), reconstruction.comm
    given = (loss, solver, behind, eliminate, max_iterations, ftol, gtol, radius, reproducible)
    with together(comm):
        _check(*given)
        masks = free(reconstruction, fix)
        behind = behind or reconstruction.behind
    same(comm, "arguments of bundle_adjust", (*given, masks.poses, masks.intrinsics))
    with clock.part("prepare"):
        surveyed = survey(reconstruction, masks, behind)
        side = eliminate if eliminate != "auto" else _side(reconstruction, surveyed)
        space = frame(comm, reconstruction.points.xyz, _moves(masks))
        posed = problem(reconstruction, masks, space, surveyed, side, reproducible)
    if reason := _nothing(comm, surveyed, posed):
        return _unsolved(reason, surveyed, side)
    with clock.part("prepare"):
        system = ReducedSystem(
            comm,
            posed.layout,
            posed.table,
            reconstruction.cameras,
            reconstruction.images.camera,
            robust=robust(loss),
            behind=behind,
            held=posed.held,
            reproducible=reproducible,
        )
        name = _choose(solver, system)
        solution = SOLVERS[name].bind(system)
    progress = Progress(math.nan, radius)
    loop = LevenbergMarquardt(system, posed, solution, clock)

    def tell(iteration: Iteration, *_: object) -> None:
        if callback:
            callback(iteration)

    final, termination = loop.run(
        posed.start, progress, Limits(max_iterations, ftol, gtol), tell
    )
    with clock.part("finish"):
        _write_back(reconstruction, posed, space, masks, posed.whole(comm, final), final)
    squares = progress.cost if loss is None else math.nan
    return Result(
        progress.cost,
        loop.history[0].cost,
        math.sqrt(2 * squares / surveyed.total),
        termination,
        TERMINATIONS[termination],
        surveyed.total,
        side,
        name,
        surveyed.dropped,
        loop.history,
        dict(clock.seconds),
    )


def _write_back(reconstruction, posed, space, masks, whole, final) -> None:
    comm, images = reconstruction.comm, reconstruction.images
    points = space.points_out(posed.points_of(comm, final))
    xyz = reconstruction.points.xyz
    xyz[masks.points] = points[masks.points]
    moved = masks.poses.any(axis=1)
    out = space.translations_out(whole.quaternion, whole.translation)
    images.quaternion[moved] = whole.quaternion[moved]
    images.translation[moved] = out[moved]
    reconstruction.cameras.parameters[:] = whole.parameters


def _choose(solver, system):
    if solver != "auto":
        return solver
    return "dense" if system.shape.size <= 2000 else "pcg"


def _moves(masks: Free) -> bool:
    """Whether the centre may move: not if a translation is fixed of which the rotation is free."""
    turns = masks.poses[:, :3].any(axis=1)
    return not (turns & ~masks.poses[:, 3:].all(axis=1)).any()


def _side(reconstruction: Reconstruction, surveyed: Survey) -> str:
    points = reconstruction.comm.allreduce(len(reconstruction.points))
    return "poses" if len(reconstruction.images) > points else "points"


def _nothing(comm, surveyed: Survey, posed: Problem) -> str | None:
    if not surveyed.total:
        return "no_residuals"
    return None


def _unsolved(reason, surveyed, side):
    return Result(0.0, 0.0, 0.0, reason, TERMINATIONS[reason], 0, side, "", surveyed.dropped)


def _check(loss, solver, behind, eliminate, max_iterations, ftol, gtol, radius, reproducible):
    robust(loss)
    if solver not in (*SOLVERS, "auto"):
        raise ConfigError(f"solver {solver!r}: there are {', '.join(SOLVERS)}, and auto")
    if behind not in (None, *_BEHIND):
        raise ConfigError(f"behind {behind!r}: give {', '.join(_BEHIND)}")
    if eliminate not in ("auto", "points", "poses"):
        raise ConfigError(f"eliminate {eliminate!r}: give points, poses or auto")
