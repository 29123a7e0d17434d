"""What a study came to: for the tables at a program's end, and for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.surrogate.judging import judge
from hpckit.apps.surrogate.making import Noted
from hpckit.apps.surrogate.results import Course, Outcome
from hpckit.program.report import rounded

if TYPE_CHECKING:
    from hpckit.apps.surrogate.monitor import Monitor
    from hpckit.surrogate.result import Report, Result
    from hpckit.surrogate.study import Study

_KINDS = ("training", "solving", "receiving", "validating", "saving", "waiting")
_LEAST = 1e-3  # of the time, of work that is worth a line


def right(result: Result) -> dict[str, Any]:
    """Was it right: how far predictions are from what the solver gives."""
    score = result.history.scores[-1]
    return {
        "gradient steps": result.steps,
        "loss, normalised": rounded(result.history.losses[-1]),
        "validation, mean squared error, normalised": rounded(score.mse),
        "validation, relative error, % on average": rounded(100 * score.mean),
        "validation, relative error, % that 95 % are below": rounded(100 * score.p95),
        "validation, relative error, % that 99 % are below": rounded(100 * score.p99),
    }


def fast(monitor: Monitor, result: Result) -> dict[str, Any]:
    """Was it fast: what went through, and who waited; nothing where all was done before."""
    if not monitor.called:
        return {}
    wall = max(_whole(rank) for rank in result.trainers)
    rate = result.drawn * _now(monitor, result) / max(wall, 1e-9)
    results: dict[str, Any] = {
        "steps of simulations": sum(sum(rank.steps) for rank in result.ranks),
        "samples trained on": result.drawn,
        "samples trained on per second": rounded(rate),
        "a sample was trained on, times on average": rounded(result.reuse),
    }
    for role, kind in (("trainer", "training"), ("solver", "solving")):
        parts = [_part(rank, kind) for rank in result.ranks if rank.role == role]
        if any(part > _LEAST for part in parts):
            results[f"{role}s: {kind}, % of the time, least"] = rounded(100 * min(parts))
    receiving = max(_part(rank, "receiving") for rank in result.trainers)
    return results | {"trainers: receiving, % of the time, most": rounded(100 * receiving)}


def speeds(study: Study, monitor: Monitor, result: Result) -> dict[str, float]:
    """What a dry run reckons with: seconds of a step, a gradient step, and a step that comes."""
    now = _now(monitor, result)
    steps = max(now * sum(sum(rank.steps) for rank in result.trainers), 1.0)
    gradient_steps = max(now * result.steps * study.trainers, 1.0)
    receiving = _seconds(result.trainers, "receiving") / steps
    found = {"gradient_step": _seconds(result.trainers, "training") / gradient_steps}
    solvers = [rank for rank in result.ranks if rank.role == "solver"]
    if not solvers:  # trainers solved as they received
        return found | {"step": receiving}
    return found | {
        "step": _seconds(solvers, "solving") / study.group / steps,
        "receive": receiving,
    }


def outcome(label: str, result: Result) -> Outcome | None:
    """That of a training, on the first trainer; None on all others (collective over trainers)."""
    training = result.training
    if training is None or result.surrogate is None:
        return None
    judged = judge(training.comm, result.surrogate, training.intake.validation)
    if judged is None:
        return None
    looks = [np.array(each) for each in zip(*judged.looks, strict=True)]
    return Outcome(
        np.array(label),
        np.array(result.history.losses),
        np.array(result.history.scores),
        judged.times,
        judged.errors,
        judged.shown,
        np.array(result.surrogate.fields.names[0]),
        *looks,
    )


def course(study: Study, monitor: Monitor, result: Result) -> Course | None:
    """That of an online training, on the first trainer (collective over trainers)."""
    training = result.training
    if training is None:
        return None
    sampler = training.sampler
    drawn = training.comm.gather(sampler.drawn if isinstance(sampler, Noted) else {})
    if drawn is None:
        return None
    simulations = {number: each for part in drawn for number, each in part.items()}
    space = study.solver.space
    names = [f"{rank.role} {number}" for number, rank in enumerate(result.ranks)]
    seconds = [[rank.seconds.get(kind, 0.0) for kind in _KINDS] for rank in result.ranks]
    return Course(
        np.array(monitor.buffer).reshape(-1, 3),
        np.array(study.buffer.capacity),
        np.sum([rank.reuse for rank in result.trainers], axis=0),
        np.array(names),
        np.array(_KINDS),
        np.array(seconds),
        np.array(space.names),
        np.array([space.low, space.high]),
        np.array([simulations[number] for number in sorted(simulations)]).reshape(-1, space.size),
    )


def _now(monitor: Monitor, result: Result) -> float:
    """The part of the gradient steps that this run took, and not the one that it went on with."""
    return 1 - monitor.before / max(result.steps, 1)


def _seconds(ranks: list[Report], kind: str) -> float:
    return sum(rank.seconds.get(kind, 0.0) for rank in ranks)


def _whole(rank: Report) -> float:
    """Seconds from a rank's first work to its end."""
    return sum(rank.seconds.get(kind, 0.0) for kind in _KINDS)


def _part(rank: Report, kind: str) -> float:
    return rank.seconds.get(kind, 0.0) / max(_whole(rank), 1e-9)
