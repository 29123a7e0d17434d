"""From a database of matches to models, all stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpckit.apps.sfm import data, pictures
from hpckit.apps.sfm.errors import errors
from hpckit.apps.sfm.view import cloud
from hpckit.errors import together
from hpckit.program.report import rounded
from hpckit.program.run import say
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job
    from hpckit.sfm.mapper import Stage
    from hpckit.sfm.reconstruction import Reconstruction


def run(job: Job) -> dict[str, Any]:
    """A model for each component of the view graph, the largest first (collective)."""
    from hpckit.sfm.mapper import global_mapper

    comm, config = job.comm, job.config
    job.needs_input("a COLMAP database with matches")
    with together(comm):
        data.existing(config.input)
    job.prepare()

    def tell(stage: Stage) -> None:
        say(comm, str(stage))
        job.stop.check()

    with span("map"):
        models = global_mapper(
            config.input,
            comm,
            min_images=config.map.min_images,
            max_tracks=config.map.max_tracks,
            seed=config.seed,
            callback=tell,
        )
    job.stop.finish()
    folder = Path(config.target or job.folder / "models")
    for number, model in enumerate(models):
        job.write(model, folder / str(number))
    if config.pictures:
        _draw(job, models[0])
    return {"models": len(models)} | _report(models[0]) | job.written


def _report(model: Reconstruction) -> dict[str, Any]:
    """Of the largest one."""
    counts, of = data.counts(model), errors(model)
    return {
        "images": counts.images,
        "points": counts.points,
        "observations": counts.observations,
        "reprojection error, mean px": rounded(of.mean),
        "reprojection error, rms px": rounded(of.rms),
    }


def _draw(job: Job, model: Reconstruction) -> None:
    shown, of = cloud(model), errors(model)
    with span("pictures"), job.drawing():
        if shown is not None:
            title = f"{len(shown.centre)} images"
            job.files += [
                pictures.scene(job.folder / "scene.png", {title: shown}),
                pictures.reprojection(job.folder / "errors.png", {"in the end": of}),
            ]
