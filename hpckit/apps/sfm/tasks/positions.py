"""Global positioning: where images stand, from their rotations and what they see alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.sfm import pictures
from hpckit.apps.sfm.view import Cloud, cloud
from hpckit.program.report import rounded
from hpckit.program.run import say
from hpckit.sfm.projection import centres
from hpckit.sfm.similarity import align
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job
    from hpckit.sfm.reconstruction import Reconstruction

_MIN_VIEWS = 3  # of points that are used, and drawn
_FRAMES = (0.0, 0.08, 0.2)  # of the iterations, after which the scene is drawn, before the last


def run(job: Job) -> dict[str, Any]:
    """Forget all positions, find them again from random ones, and compare (collective)."""
    from hpckit.sfm.positioning import position_globally

    config = job.config
    found, truth = job.load()
    known = truth.truth if truth else found
    true = centres(known.images)
    found.images.quaternion[:] = known.images.quaternion
    found.cameras.parameters[:] = known.cameras.parameters
    job.prepare()
    start = found.images.translation.copy(), found.points.xyz.copy()
    with span("positions"):
        report = position_globally(found, min_views=_MIN_VIEWS, seed=config.seed)
    job.stop.finish()
    say(job.comm, f"ended     {report.termination} after {report.iterations} iterations")
    there = centres(found.images)
    off = np.linalg.norm(align(there, true).apply(there) - true, axis=1)
    extent = np.linalg.norm(np.ptp(true, axis=0))
    job.write(found)
    if config.pictures:
        last = _aligned(found, true)
        with span("frames"):
            frames = _frames(job, found, start, true, report.iterations)
        with span("pictures"), job.drawing():
            if last is not None:
                drawn = {title: each for title, each in frames.items() if each is not None}
                drawn[_title(report.iterations)] = last
                job.files.append(pictures.scene(job.folder / "positions.png", drawn))
    return {
        "cost": report.cost,
        "iterations": report.iterations,
        "rays": report.rays,
        "off the input, median % of the extent": rounded(100 * float(np.median(off)) / extent),
        "off the input, most % of the extent": rounded(100 * float(off.max()) / extent),
    } | job.written


def _frames(
    job: Job,
    found: Reconstruction,
    start: tuple[np.ndarray, np.ndarray],
    true: np.ndarray,
    iterations: int,
) -> dict[str, Cloud | None]:
    """The scene on its way: the same solve once more, from the same start, and ended before."""
    from hpckit.sfm.positioning import position_globally

    frames = {}
    for share in _FRAMES:
        few = round(share * iterations)
        found.images.translation[:], found.points.xyz[:] = start
        position_globally(found, min_views=_MIN_VIEWS, seed=job.config.seed, max_iterations=few)
        frames[_title(few)] = _aligned(found, true)
    return frames


def _title(iterations: int) -> str:
    return f"After {iterations} iterations" if iterations else "At random"


def _aligned(found: Reconstruction, true: np.ndarray) -> Cloud | None:
    """The scene where the input has it, as far as a similarity can bring it there (collective)."""
    shown = cloud(found, _MIN_VIEWS)
    if shown is None:
        return None
    near = align(shown.centre, true)
    return Cloud(
        near.apply(shown.xyz), shown.rgb, near.apply(shown.centre), shown.axes @ near.rotation.T
    )
