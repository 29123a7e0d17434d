"""What is in a file: numbers, before anything is done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.sfm.errors import errors
from hpckit.program.report import rounded
from hpckit.sfm.summary import summarise

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job
    from hpckit.sfm.reconstruction import Reconstruction


def run(job: Job) -> dict[str, Any]:
    """Counts, cameras, tracks, components and errors (collective)."""
    found, _ = job.load()
    summary = summarise(found)
    results: dict[str, Any] = {
        "images": summary.images,
        "images that see nothing": len(summary.unobserved_images),
        "components": ", ".join(f"{len(each)} images" for each in summary.components) or "none",
        "camera models": _models(found),
        "points": summary.points,
        "points with one view": summary.one_view_points,
        "points with none": summary.unobserved_points,
        "observations": summary.observations,
        "observations of a point, mean": rounded(summary.mean_track_length),
        "observations of a point, most": len(summary.track_lengths) - 1,
    }
    if summary.observations:
        of = errors(found)
        results["cost"] = of.cost
        results["reprojection error, rms px"] = rounded(of.rms)
        results["reprojection error, mean px"] = rounded(of.mean)
        results["behind the camera"] = f"{of.behind} observations, rule {found.behind!r}"
    return results


def _models(found: Reconstruction) -> str:
    names, numbers = np.unique(
        [found.cameras.model_of(i).name for i in range(len(found.cameras))], return_counts=True
    )
    return ", ".join(f"{n} {name}" for name, n in zip(names, numbers, strict=True)) or "none"
