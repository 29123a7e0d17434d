"""Train a surrogate from a tape, in epochs; nothing is solved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.surrogate import summary
from hpckit.apps.surrogate.results import Results

if TYPE_CHECKING:
    from hpckit.apps.surrogate.job import Job


def run(job: Job) -> dict[str, Any]:
    """Train, say how good and how fast it was, draw (collective)."""
    study = job.study()
    outcome, monitor, result = job.offline(study)
    job.keep(Results(offline=outcome))
    return summary.right(result) | summary.fast(monitor, result) | job.written
