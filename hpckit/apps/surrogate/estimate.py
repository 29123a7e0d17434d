"""`--dry-run` of `hpckit.apps.surrogate`: speed, memory and load; arithmetic, no MPI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hpckit.errors import ConfigError
from hpckit.program.offline import offline
from hpckit.program.report import PROCESS
from hpckit.units import amount, duration

if TYPE_CHECKING:
    from hpckit.apps.surrogate.config import Config

SPEEDS = "speeds.json"  # in the folder of results: what the last run measured
_ENGINE = 120e6  # bytes of the library of networks
_VALUE = 4  # bytes of a number in a sample
_RECEIVE = 20e-6  # seconds for a step that comes, where nothing is measured, and
_COPY = 1e-9  # for each of its bytes


class Measured(msgspec.Struct):
    """Seconds of a group for a step, of a trainer for a gradient step and for a step that comes."""

    step: float | None = None
    gradient_step: float | None = None
    receive: float | None = None


class Size(NamedTuple):
    """Numbers of a case: values of a step; inputs of a sample; steps of a simulation."""

    values: int
    inputs: int
    steps: int


class Load(NamedTuple):
    """What trainers and solvers do: per second, and the parts of the time in which they work."""

    gradient_steps: float
    steps: float
    trainers: float
    solvers: float
    reuse: float


def estimate(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like, for people."""
    with offline():
        from hpckit.apps.surrogate.making import make_solver
        from hpckit.surrogate import views
        from hpckit.surrogate.roles import shares
        from hpckit.surrogate.solver import Fields

        solver = make_solver(config)
        view = views.parse(config.view).bind(solver.space.size, Fields.of(solver.fields))
        leaders, groups = shares(ranks, config.trainers, config.group)
    if config.lanes % config.trainers or config.lanes < len(groups):
        need = -(-max(len(groups), config.trainers) // config.trainers) * config.trainers
        raise ConfigError(
            f"lanes = {config.lanes} must be a multiple of {config.trainers} trainers, and at "
            f"least {len(groups)}, the number of groups: give --lanes {need}"
        )
    size = Size(view.outputs, view.inputs, solver.steps)
    count = len(groups) or len(leaders)
    rows = {
        "ranks": f"{len(leaders):,} train, {ranks - len(leaders):,} solve in {len(groups):,} "
        f"groups of {config.group}, {config.lanes:,} simulations at the same time",
        "data": f"{size.values:,} values a step, {amount(_VALUE * size.values)}, {size.steps} "
        "steps a simulation",
        "memory": _memory(config, size),
    }
    found = measured(config)
    if found.step is None or found.gradient_step is None:
        rows["speed"] = (
            "not known: run the case once, with the same output, or give --speeds.step and "
            "--speeds.gradient-step"
        )
    else:
        rows |= _speed(config, size, found, count, inline=not groups)
    return "\n".join(f"{name:<11}{text}" for name, text in rows.items())


def measured(config: Config) -> Measured:
    """What the case says, else what the last run found."""
    path, found = Path(config.output) / SPEEDS, Measured()
    if path.exists():
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Measured)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}; remove it") from None
    given = {k: v for k, v in msgspec.structs.asdict(config.speeds).items() if v is not None}
    return msgspec.structs.replace(found, **given)


def load(config: Config, found: Measured, size: Size, groups: int, inline: bool) -> Load:
    """How busy trainers and groups are, where the slower ones set the pace.

    groups : of solver ranks; inline : whether these are the trainers themselves
    """
    assert found.step is not None and found.gradient_step is not None
    trainers, schedule = config.trainers, config.schedule
    receive = found.receive
    if receive is None:
        receive = _RECEIVE + _COPY * _VALUE * size.values
    solve = found.step if inline else receive  # of a trainer, for a step
    made = groups / found.step  # steps per second at most
    if schedule.kind == "lockstep":
        each = found.gradient_step + schedule.samples * solve
        rate = 1 / each
        if not inline:  # lanes take turns: the group that has most of them sets the pace
            paced = config.lanes / -(-config.lanes // groups) / found.step
            rate = min(rate, paced / (trainers * schedule.samples))
        steps = rate * trainers * schedule.samples
    else:
        taken = made / trainers  # steps that each trainer is offered per second
        rate = max(1 - taken * solve, 0.1) / found.gradient_step
        if schedule.reuse is not None:
            rate = min(rate, schedule.reuse * taken / config.batch)
        steps = taken * trainers
    return Load(
        rate,
        steps,
        rate * found.gradient_step,
        steps / made,
        rate * trainers * config.batch / steps,
    )


def _speed(
    config: Config, size: Size, found: Measured, groups: int, inline: bool
) -> dict[str, str]:
    it = load(config, found, size, groups, inline)
    samples = it.gradient_steps * config.batch * config.trainers
    simulations = config.steps / it.gradient_steps * it.steps / size.steps
    return {
        "speed": f"{samples:,.0f} samples/s trained on, {it.steps:,.0f} steps/s solved, a sample "
        f"{it.reuse:.3g} times; {duration(config.steps / it.gradient_steps)} for "
        f"{config.steps:,} gradient steps, {simulations:,.0f} simulations",
        "load": f"trainers train {100 * it.trainers:.0f} % of the time, "
        + ("and solve in the rest" if inline else f"solvers solve {100 * it.solvers:.0f} % of it"),
    }


def _memory(config: Config, size: Size) -> str:
    row = _VALUE * (size.inputs + size.values) + 16
    validation = -(-config.validation.simulations // config.trainers) * size.steps
    trainer = PROCESS + _ENGINE + row * (config.buffer.capacity + validation)
    return (
        f"about {amount(trainer)} for each trainer, of which "
        f"{amount(row * config.buffer.capacity)} are its buffer, and "
        f"{amount(PROCESS + 20 * _VALUE * size.values)} for each solver rank"
    )
