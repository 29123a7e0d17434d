"""Online and offline: what do more simulations bring, after as many gradient steps?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.surrogate import summary
from hpckit.apps.surrogate.results import Results
from hpckit.errors import ConfigError, together
from hpckit.program.report import rounded
from hpckit.program.run import say

if TYPE_CHECKING:
    from hpckit.apps.surrogate.job import Job
    from hpckit.surrogate.study import Study


def run(job: Job) -> dict[str, Any]:
    """Train online and record; train again from the first simulations of the tape (collective)."""
    study = job.study()
    again = job.make(job.folder / "offline")
    with together(job.comm):
        _check(job, study)
    job.new_tape()
    say(job.comm, "online: solvers compute what is trained on")
    monitor, result = job.online(study, job.tape, keep=True)
    online = summary.outcome("online", result)
    course = summary.course(study, monitor, result)
    say(job.comm, f"offline: from the tape {job.tape}")
    offline, _, without = job.offline(again)
    job.keep(Results(online, offline, course))
    one, two = (each.history.scores[-1] for each in (result, without))
    return (
        summary.right(result)
        | {"offline: validation, relative error, % on average": rounded(100 * two.mean)}
        | {"online / offline, validation, mean squared error": rounded(one.mse / two.mse)}
        | summary.fast(monitor, result)
        | job.written
    )


def _check(job: Job, study: Study) -> None:
    """`ConfigError` where so few simulations will be solved that the tape has not enough."""
    config = job.config
    steps = config.steps * config.schedule.samples * config.trainers
    most = config.simulations or 1 + steps // study.solver.steps
    if config.schedule.kind == "lockstep" and most < (config.offline.simulations or 1):
        raise ConfigError(
            f"offline.simulations = {config.offline.simulations} of about {most} that are solved "
            f"in {config.steps} gradient steps: give fewer, or more --steps"
        )
