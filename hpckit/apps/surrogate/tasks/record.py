"""Solve, and record what is solved on a tape; nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.trace import span

if TYPE_CHECKING:
    from hpckit.apps.surrogate.job import Job

_SIMULATIONS = 100  # where a case does not say how many


def run(job: Job) -> dict[str, Any]:
    """A tape of so many simulations, and those for validation (collective)."""
    config = job.config
    study = job.study()
    job.new_tape()
    job.stop.check()
    simulations = config.simulations or _SIMULATIONS
    with span("record"):
        result = study.record(job.tape, simulations, resume=config.resume)
    job.stop.finish()
    steps = sum(sum(rank.steps) for rank in result.ranks)
    job.files.append(job.tape)
    return {"simulations": simulations, "steps, with those for validation": steps} | job.written
