"""What a case names, made: solver, buffer, schedule, and the study of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hpckit.errors import ConfigError, HpckitError, cause, together
from hpckit.surrogate.buffers import FIFO, FIRO, Reservoir
from hpckit.surrogate.engine import Options
from hpckit.surrogate.equations import SOLVERS
from hpckit.surrogate.schedule import Free, Lockstep
from hpckit.surrogate.space import Box, Sampler
from hpckit.surrogate.study import Study

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.apps.surrogate.config import Buffer, Config, Engine, Schedule
    from hpckit.surrogate.solver import Solver


def make_study(comm: MPI.Intracomm, config: Config, folder: Path) -> Study:
    """The study of a case, whose surrogate and checkpoints are kept in that folder (collective)."""
    with together(comm):
        solver = make_solver(config)
        parts = {
            "buffer": _buffer(config.buffer),
            "schedule": _schedule(config.schedule),
            "options": _options(config.engine, config),
        }
    study = Study(
        solver,
        config.model,
        view=config.view,
        batch=config.batch,
        trainers=config.trainers,
        group=config.group,
        lanes=config.lanes,
        sampler=config.sampler,
        simulations=config.simulations,
        steps=config.steps,
        validation=config.validation.simulations,
        validate_every=config.validation.every,
        seed=config.seed,
        folder=folder,
        save_every=config.checkpoint_every,
        deadline=config.deadline,
        comm=comm,
        **parts,
    )
    study.sampler = Noted(study.sampler)
    return study


def make_solver(config: Config) -> Solver:
    """The one that a case names; `ConfigError` where it is not known, or not made so."""
    name, options = config.solver, config.solver_options
    try:
        kind = SOLVERS[name] if name in SOLVERS else pkgutil.resolve_name(_place(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"solver {name!r} cannot be imported: {cause(error)}") from error
    try:
        return kind(**options)
    except HpckitError:
        raise
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ConfigError(f"solver {name!r} cannot be made with ({given}): {error}") from error


def _place(name: str) -> str:
    if ":" not in name:
        raise ConfigError(
            f"solver {name!r} is not known: it must be one of {', '.join(SOLVERS)}, or "
            "'package.module:name'"
        )
    return name


def _buffer(config: Buffer) -> FIFO | FIRO | Reservoir:
    if config.kind == "fifo":
        return FIFO(config.capacity)
    kind = FIRO if config.kind == "firo" else Reservoir
    return kind(config.capacity, config.threshold)


def _schedule(config: Schedule) -> Lockstep | Free:
    return Free(config.reuse) if config.kind == "free" else Lockstep(config.samples)


def _options(engine: Engine, config: Config) -> Options:
    return Options(
        rate=engine.rate,
        halve_every=engine.halve_every,
        sizes=config.model_options,
        threads=engine.threads,
        bf16=engine.bf16,
        compress=engine.compress,
        local=None if engine.local is None else {"tau": engine.local},
    )


class Noted:
    """A sampler that remembers what it has drawn, for the picture of it.

    drawn : parameters by number of the simulation
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.drawn: dict[int, list[float]] = {}

    def __repr__(self) -> str:
        return repr(self._sampler)

    def bind(self, box: Box, seed: int) -> Self:
        return type(self)(self._sampler.bind(box, seed))

    def draw(self, simulation: int) -> np.ndarray:
        parameters = self._sampler.draw(simulation)
        self.drawn[simulation] = parameters.tolist()
        return parameters

    def validation(self, number: int) -> np.ndarray:
        return self._sampler.validation(number)

    def learn(self, simulations: np.ndarray, losses: np.ndarray) -> None:
        self._sampler.learn(simulations, losses)

    def state(self) -> dict[str, Any]:
        return {"sampler": self._sampler.state(), "drawn": list(self.drawn.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sampler.restore(state["sampler"])
        self.drawn = dict(state["drawn"])
