"""What is in a file: numbers, before anything is done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.sfm import data
from hpckit.apps.sfm.summary import components, errors, track_lengths
from hpckit.program.report import rounded

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job
    from hpckit.sfm.reconstruction import Reconstruction


def run(job: Job) -> dict[str, Any]:
    """Counts, cameras, tracks, components and errors (collective)."""
    found, _ = job.load()
    results: dict[str, Any] = dict(data.counts(found)._asdict())
    results["camera models"] = _models(found)
    lengths = track_lengths(found)
    views = np.arange(len(lengths))
    total = max(int(lengths.sum()), 1)
    results["views of a point, mean"] = rounded(float(lengths @ views) / total)
    results["views of a point, most"] = int(np.flatnonzero(lengths)[-1]) if lengths.any() else 0
    results["points with fewer than 2 views"] = int(lengths[:2].sum())
    sizes = components(found)
    results["images that see nothing"] = len(found.images) - sum(sizes)
    results["components"] = ", ".join(f"{size} images" for size in sizes) or "none"
    if results["observations"]:
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
