"""What `hpckit.apps.kmedoids` leaves behind: a file of results and pictures; rank 0 only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpckit.apps.kmedoids.data import distances
from hpckit.errors import writing
from hpckit.files import replacing
from hpckit.io.overlay import changed
from hpckit.program.run import version

if TYPE_CHECKING:
    from hpckit.apps.kmedoids.config import Config
    from hpckit.cluster import Result

_FEW, _MANY = 3, 100  # medoids that span no plane, and objects that do so in their stead


def save(path: Path, config: Config, result: Result, centers: np.ndarray | None) -> None:
    """Write the result as HDF5, whole or not at all.

    centers : (k, d), the medoids' points, where there are points
    """
    arrays = {"medoids": result.medoids, "labels": result.labels, "trace": result.trace}
    if centers is not None:
        arrays["centers"] = centers
    said = {
        "loss": result.loss,
        "n_iter": result.n_iter,
        "n_swap": result.n_swap,
        "method": config.method,
        "metric": config.metric,
        "input": config.input,
        "hpckit": version(),
    }
    with writing(path), replacing(path) as draft, changed(draft, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file.attrs.update(said)


def pictures(
    folder: Path, config: Config, result: Result, drawn: np.ndarray, sample: np.ndarray
) -> list[Path]:
    """Draw them; the files.

    drawn : (s,), the objects to show, sorted; sample : (s, d), their points, or (s, s), the
        distances between them
    """
    from hpckit import cluster
    from hpckit.apps.kmedoids import pictures as draw

    if len(drawn) < 2:
        return []
    labels, at = result.labels[drawn], np.searchsorted(drawn, result.medoids)
    landmarks = (
        at if len(at) > _FEW else np.union1d(at, np.arange(0, len(drawn), -(-len(drawn) // _MANY)))
    )
    plane = draw.plane(distances(sample, config.metric, landmarks), landmarks)
    title = f"{len(at)} medoids of {len(result.labels):,} objects, {config.metric}"
    files = [draw.embedding(folder / "clusters.png", plane, labels, at, title)]
    if len(np.unique(labels)) > 1:
        values = cluster.silhouette(sample, labels, metric=config.metric)
        files.append(draw.silhouettes(folder / "silhouettes.png", values, labels, len(at)))
    if result.n_swap:
        whose = {"clara": " of the best sample", "onebatch": " of the batch"}.get(config.method, "")
        files.append(draw.losses(folder / "loss.png", result.trace["loss"], f"loss{whose}"))
    if isinstance(result, cluster.DynResult):
        files.append(
            draw.scores(folder / "scores.png", result.scores["k"], result.scores["silhouette"])
        )
    return files
