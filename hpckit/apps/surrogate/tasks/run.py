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
    online = summary.outcome("online", monitor, result)
    course = summary.course(study, monitor, result)
    if online is None:  # on rank 0: all was done before
        online, _, course = job.before
    job.end(Results(online, None, course))
    return summary.right(result) | summary.fast(monitor, result) | job.written
