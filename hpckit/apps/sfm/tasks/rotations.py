"""Rotation averaging: the rotations of all images from those between pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.sfm import data, pictures
from hpckit.apps.sfm.pose_graph import (
    PoseGraph,
    database_pose_graph,
    generate_pose_graph,
    mine,
    off_truth,
    read_pose_graph,
)
from hpckit.errors import together, writing
from hpckit.files import replacing
from hpckit.program.report import rounded
from hpckit.program.run import say
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job


def run(job: Job) -> dict[str, Any]:
    """Average, and say how far pairs are off (collective)."""
    from hpckit.sfm.rotation_averaging import average_rotations

    comm, config = job.comm, job.config
    graph = _graph(job)
    here = mine(graph, comm)
    say(comm, f"data      {len(graph.ids):,} images, {len(graph.pairs):,} pairs")
    job.prepare()
    with span("rotations"):
        found, report = average_rotations(
            comm,
            len(graph.ids),
            graph.pairs[here],
            graph.relative[here],
            graph.weights[here],
            loss=config.rotations.loss,
        )
    job.stop.finish()
    say(comm, f"ended     {report.termination} after {report.iterations} iterations")
    angles = np.degrees(np.concatenate(comm.allgather(report.angle)))
    results: dict[str, Any] = {
        "cost, rad2": report.cost,
        "components": len(np.unique(report.component)),
        "pairs are off, median degrees": rounded(float(np.median(angles))),
        "pairs that are off by more than 10 degrees": int((angles > 10).sum()),
    }
    if graph.truth is not None:
        off = np.degrees(off_truth(found, graph.truth))
        results["images are off, median degrees"] = rounded(float(np.median(off)))
        results["images are off, most degrees"] = rounded(float(off.max()))
    _write(job, graph, found)
    with span("pictures"), job.drawing():
        if config.pictures and comm.rank == 0:
            job.files.append(pictures.angles(job.folder / "angles.png", angles))
    return results | job.written


def _graph(job: Job) -> PoseGraph:
    """The same on all ranks (collective)."""
    config, graph = job.config, None
    if not config.input:
        truth = data.generate(job.comm, config.generate).truth.images.quaternion
        return generate_pose_graph(config.generate, config.rotations, truth)
    path, database = Path(config.input), False
    with together(job.comm):
        data.existing(config.input)
        if job.comm.rank == 0 and not (database := data.is_database(path)):
            graph = read_pose_graph(path)
    if job.comm.bcast(database):
        with span("relative poses"):
            return database_pose_graph(path, job.comm)
    return job.comm.bcast(graph)


def _write(job: Job, graph: PoseGraph, found: np.ndarray) -> None:
    """Lines "image qw qx qy qz", world to camera, by rank 0 (collective)."""
    path = Path(job.config.target or job.folder / "rotations.txt")
    with together(job.comm):
        if job.comm.rank == 0:
            lines = [
                f"{number} {' '.join(f'{value:.17g}' for value in q)}\n"
                for number, q in zip(graph.ids, found, strict=True)
            ]
            with writing(path), replacing(path) as draft:
                draft.write_text("# image qw qx qy qz, world to camera\n" + "".join(lines))
    job.files.append(path)
