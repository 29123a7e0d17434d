"""Whether a study is possible, before anything starts."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from hpckit.errors import ConfigError
from hpckit.surrogate import views
from hpckit.surrogate.breed import Breed
from hpckit.surrogate.buffers import FIFO, FIRO, Epochs
from hpckit.surrogate.schedule import Free, Lockstep
from hpckit.surrogate.settings import Settings
from hpckit.surrogate.solver import Fields, check_solver
from hpckit.surrogate.space import Box, Sampler, Sobol, Uniform

_SAMPLERS: dict[str, Callable[[], Sampler]] = {"uniform": Uniform, "sobol": Sobol, "breed": Breed}


def check_settings(settings: Settings) -> None:
    """`ConfigError` for the first thing that cannot be, with what to do."""
    _check_solver(settings)
    for name in ("batch", "trainers", "group", "lanes", "steps", "validate_every"):
        _whole(name, getattr(settings, name), 1)
    _whole("validation", settings.validation, 0)
    _whole("seed", settings.seed, 0)
    if settings.simulations is not None:
        _whole("simulations", settings.simulations, 1)
    for name in ("save_every", "deadline"):
        _positive(name, getattr(settings, name))
    _check_buffer(settings)
    _check_schedule(settings)


def sampler_of(given: str | Sampler) -> Sampler:
    """A sampler by its name, or as it is."""
    if isinstance(given, str) and given in _SAMPLERS:
        return _SAMPLERS[given]()
    if isinstance(given, str) or not hasattr(given, "bind"):
        raise ConfigError(
            f"sampler = {given!r} must be one of {', '.join(_SAMPLERS)}, or a Sampler"
        )
    return given


def _check_solver(settings: Settings) -> None:
    solver = settings.solver
    check_solver(solver)
    Fields.of(solver.fields)
    if not isinstance(solver.space, Box):
        raise ConfigError(
            f"the solver's space must be a Box, such as Box(nu=(0.01, 0.1)), not {solver.space!r}"
        )
    fewest = views.parse(settings.view).fewest()
    if solver.steps < fewest:
        raise ConfigError(
            f"view = {settings.view!r} makes no sample of {solver.steps} steps: it needs {fewest},"
            " or another view"
        )


def _check_buffer(settings: Settings) -> None:
    buffer = settings.buffer
    if not hasattr(buffer, "bind"):
        raise ConfigError(
            f"buffer = {buffer!r} must be FIFO(capacity), FIRO or Reservoir(capacity, threshold)"
        )
    if isinstance(buffer, Epochs):
        if settings.simulations is None:
            raise ConfigError("Epochs() waits for all simulations: say how many simulations")
    elif buffer.capacity < settings.batch:
        raise ConfigError(
            f"batch = {settings.batch} samples do not fit into {buffer!r}: choose a larger capacity"
        )


def _check_schedule(settings: Settings) -> None:
    schedule, buffer = settings.schedule, settings.buffer
    if isinstance(schedule, Free):
        if schedule.reuse is not None:
            _positive("reuse of Free", schedule.reuse)
        return
    if not isinstance(schedule, Lockstep):
        raise ConfigError(f"schedule = {schedule!r} must be Lockstep(samples) or Free()")
    _whole("samples of Lockstep", schedule.samples, 1)
    if isinstance(buffer, FIFO | FIRO) and schedule.samples < settings.batch:
        raise ConfigError(
            f"{buffer!r} gives each sample once, so batch = {settings.batch} needs as many new ones"
            f" per gradient step: Lockstep({settings.batch}), not {schedule.samples}, or Reservoir"
        )


def _whole(name: str, value: Any, least: int) -> None:
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ConfigError(f"{name} = {value!r} must be a whole number of at least {least}")


def _positive(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, int | float) and value > 0):
        raise ConfigError(f"{name} = {value!r} must be a number above 0, or None")
