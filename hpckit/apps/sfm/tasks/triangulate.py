"""Triangulation: points anew, from poses and tracks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.sfm import data, pictures
from hpckit.apps.sfm.errors import errors
from hpckit.apps.sfm.view import cloud
from hpckit.program.report import rounded
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job


def run(job: Job) -> dict[str, Any]:
    """Where the rays of each track meet, and which of them do (collective)."""
    from hpckit.sfm.triangulation import triangulate

    given, _ = job.load()
    job.prepare()
    before, counted, was = errors(given), data.counts(given), cloud(given)
    with span("triangulate"):
        found = triangulate(given)
    job.stop.finish()
    after, counts, shown = errors(found), data.counts(found), cloud(found)
    job.write(found)
    with span("pictures"), job.drawing():
        if job.config.pictures and was is not None and shown is not None:
            panels = {"Before": was, "After": shown}
            job.files += [
                pictures.scene(job.folder / "scene.png", panels),
                pictures.reprojection(
                    job.folder / "errors.png", {"before": before, "after": after}
                ),
            ]
    return {
        "points": counts.points,
        "points left out": counted.points - counts.points,
        "observations": counts.observations,
        "observations left out": counted.observations - counts.observations,
        "reprojection error, rms px": rounded(after.rms),
        "reprojection error before, rms px": rounded(before.rms),
    } | job.written
