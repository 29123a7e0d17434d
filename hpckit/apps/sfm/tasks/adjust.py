"""Bundle adjustment: cameras and points so that points project to where images see them."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.apps.sfm import data, pictures
from hpckit.apps.sfm.errors import errors
from hpckit.apps.sfm.monitor import Monitor
from hpckit.apps.sfm.view import cloud
from hpckit.errors import ConfigError, together
from hpckit.program.report import rounded
from hpckit.program.run import say
from hpckit.sfm.bundle.sums import SPAN
from hpckit.sfm.projection import centres
from hpckit.sfm.similarity import align
from hpckit.trace import seconds, span

if TYPE_CHECKING:
    from hpckit.apps.sfm.config import Config
    from hpckit.apps.sfm.job import Job
    from hpckit.sfm.bundle.result import Result
    from hpckit.sfm.reconstruction import Reconstruction
    from hpckit.sfm.synthetic import Scene

_INTRINSICS = ("focal", "principal_point", "distortion")


def run(job: Job) -> dict[str, Any]:
    """Adjust, say how good and how fast it was, write, draw (collective)."""
    from hpckit.sfm import bundle_adjust

    comm, config = job.comm, job.config
    found, truth = job.load()
    options = arguments(config)
    job.prepare()
    shown = cloud(found) if config.pictures else None
    before = errors(found)
    job.stop.check()
    monitor = Monitor(comm, job.stop, job.until)
    with span("bundle adjustment"):
        result = bundle_adjust(
            found,
            callback=monitor,
            checkpoint=job.folder / "checkpoint",
            resume=config.resume,
            **options,
        )
    with together(comm):
        _refuse_nothing(result)
        if monitor.stopped and result.termination == "stopped":
            raise monitor.stopped
    job.stop.finish()
    if config.resume and not monitor.heard:
        say(comm, f"resume    the run in {job.folder} had ended: nothing was left to do")
    say(comm, f"ended     {result.termination}: {result.message}")
    results = report(result) | speed(job, result) | verdict(config, found, result, truth)
    after = errors(found)
    job.write(found)
    if config.pictures:
        now = cloud(found)
        with span("pictures"), job.drawing():
            if shown is not None and now is not None:
                job.files += [
                    pictures.scene(job.folder / "scene.png", {"Before": shown, "After": now}),
                    pictures.reprojection(
                        job.folder / "errors.png", {"before": before, "after": after}
                    ),
                    pictures.convergence(job.folder / "cost.png", result.history),
                ]
    return results | job.written


def arguments(config: Config) -> dict[str, Any]:
    """Of `bundle_adjust`."""
    from hpckit.sfm import Cauchy, Huber, SoftL1

    makers = {"huber": Huber, "cauchy": Cauchy, "soft_l1": SoftL1}
    loss = makers[config.loss](config.loss_scale) if config.loss != "none" else None
    return {
        "loss": loss,
        "solver": config.solver,
        "fix": fixed(config),
        "behind": config.behind,
        "max_iterations": config.max_iterations,
        "ftol": config.ftol,
        "gtol": config.gtol,
        "radius": config.radius,
        "reproducible": config.reproducible,
        "checkpoint_every": config.checkpoint_every,
    }


def fixed(config: Config) -> dict[str, Any]:
    """The argument `fix`."""
    intrinsics = _INTRINSICS if "intrinsics" in config.fix else config.fix
    return {
        "intrinsics": tuple(kind for kind in _INTRINSICS if kind in intrinsics),
        "poses": "poses" in config.fix,
        "points": "points" in config.fix,
    }


def report(result: Result) -> dict[str, Any]:
    """How far it came, and how fast."""
    iterations = len(result.history) - 1
    results: dict[str, Any] = {
        "cost": result.cost,
        "cost before": result.initial_cost,
        "reprojection error, rms px": rounded(result.rms_px),
        "iterations": iterations,
        "solver": f"{result.solver}, {result.eliminated} eliminated: {result.why}",
    }
    linear = sum(each.linear_iterations for each in result.history)
    if linear > iterations:
        results["linear iterations"] = linear
    if result.dropped.one_view:
        results["points with one view, left as they were"] = result.dropped.one_view
    if len(result.dropped.images):
        results["images that see nothing, left as they were"] = len(result.dropped.images)
    if result.dropped.behind:
        results["observations behind the camera, left out"] = result.dropped.behind
    return results


def speed(job: Job, result: Result) -> dict[str, Any]:
    """How fast the iterations were, and how much memory there was at the peak (collective)."""
    comm, iterations = job.comm, len(result.history) - 1
    spent = result.history[-1].seconds - result.history[0].seconds
    # Of the rank that waits least, because the others wait for it.
    sums = comm.allreduce(seconds(SPAN), MPI.MIN)
    peak = comm.allreduce(1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    results: dict[str, Any] = {"memory at the peak, MB in all": rounded(peak / 1e6)}
    if iterations and spent > 0:
        results["observations per second, million"] = rounded(
            result.observations * iterations / spent / 1e6
        )
        if comm.size > 1:
            results["sums over ranks, % of the iterations"] = rounded(100 * sums / spent)
    return results


def verdict(
    config: Config, found: Reconstruction, result: Result, truth: Scene | None
) -> dict[str, Any]:
    """How near it is to what is known of a generated scene (collective)."""
    if truth is None:
        return {}
    there, true = centres(found.images), centres(truth.truth.images)
    off = np.linalg.norm(align(there, true).apply(there) - true, axis=1)
    extent = np.linalg.norm(np.ptp(true, axis=0))
    results: dict[str, Any] = {
        "error of the centres, rms % of the extent": rounded(
            100 * float(np.sqrt((off**2).mean())) / extent
        )
    }
    if config.loss == "none" and not {"poses", "points"} & set(config.fix):
        cost, deviation = truth.expected_cost(free_parameters(config, found))
        results["cost, expected of the optimum"] = f"{cost:.6g} +- {deviation:.2g}"
    return results


def free_parameters(config: Config, found: Reconstruction) -> int:
    """How many numbers are adjusted, less the seven of the gauge (collective)."""
    kinds = set(_INTRINSICS) - set(fixed(config)["intrinsics"])
    counts = data.counts(found)
    lenses = 0
    for i in range(counts.cameras):
        model = found.cameras.model_of(i)
        lenses += sum(len(getattr(model, kind)) for kind in kinds)
    return 6 * counts.images + lenses + 3 * counts.points - 7


def _refuse_nothing(result: Result) -> None:
    if result.termination == "no_residuals":
        raise ConfigError(
            "there is nothing to adjust: no point is seen by two images; give a model with "
            "observations, or map a database"
        )
    if result.termination == "all_fixed":
        raise ConfigError("there is nothing to adjust: everything is fixed; leave something free")
