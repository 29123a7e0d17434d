"""Train a surrogate while solvers compute what it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.surrogate import summary
from hpckit.apps.surrogate.results import Results

if TYPE_CHECKING:
    from hpckit.apps.surrogate.job import Job


def run(job: Job) -> dict[str, Any]:
    """Train, say how good and how fast it was, draw (collective)."""
    study = job.study()
    monitor, result = job.online(study, job.tape if job.config.tape else None)
    online = summary.outcome("online", result)
    job.keep(Results(online, course=summary.course(study, monitor, result)))
    return summary.right(result) | summary.fast(monitor, result) | job.written
