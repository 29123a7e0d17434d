"""The pictures of results that are there, drawn again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.surrogate.gallery import draw
from hpckit.apps.surrogate.results import Results
from hpckit.program.report import rounded
from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.surrogate.job import Job


def run(job: Job) -> dict[str, Any]:
    """All pictures of a folder of results (collective)."""
    found: dict[str, Any] = {}
    with span("pictures"), job.drawing():
        if job.comm.rank == 0:
            results = Results.load(job.folder)
            job.files += draw(job.folder, results)
            for name, outcome in results.trainings.items():
                error = rounded(100 * float(outcome.scores[-1, 1]))
                found[f"{name}: validation, relative error, % on average"] = error
    return found | job.written
