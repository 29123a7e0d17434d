"""Pictures of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.sfm import pictures
from hpckit.apps.sfm.errors import errors
from hpckit.apps.sfm.view import cloud
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job


def run(job: Job) -> dict[str, Any]:
    """The scene, and its reprojection errors (collective)."""
    found, truth = job.load()
    job.prepare()
    shown, of = cloud(found), errors(found)
    true = cloud(truth.truth) if truth else None
    name = f"{len(found.images)} images"
    with span("pictures"), job.drawing():
        if shown is not None:
            clouds = {"The start": shown, "The truth": true} if true else {name: shown}
            job.files.append(pictures.scene(job.folder / "scene.png", clouds))
            if of.counts.sum():
                job.files.append(pictures.reprojection(job.folder / "errors.png", {"now": of}))
    return job.written
