"""How many time steps a run takes, how long they are, and after which ones it writes; no MPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpckit.errors import ConfigError
from hpckit.pde import EQUATIONS

if TYPE_CHECKING:
    from hpckit.apps.halo.config import Config

SAFE = 0.9  # of the largest stable time step
STEPS = 50  # where neither their number nor the duration is given
_MOST_STEPS = 10**15  # more would take longer than anyone waits


def schedule(config: Config, dt_max: float) -> tuple[int, float]:
    """Number and length of the time steps.

    Raises `ConfigError` where they contradict each other or are unstable.
    """
    if None not in (config.steps, config.duration, config.dt):
        raise ConfigError(
            "steps, duration and dt are given, but two of them determine the third: leave one out"
        )
    limit = EQUATIONS[config.equation].limits_dt(config.options)
    if not dt_max > 0:
        raise ConfigError(
            f"the largest stable time step is {dt_max:g} with {limit}: choose one that suits the "
            "size of the cells"
        )
    steps, dt = config.steps or STEPS, config.dt or SAFE * dt_max
    if config.duration is not None:
        if config.steps is None and not config.duration / dt < _MOST_STEPS:
            raise ConfigError(
                f"duration {config.duration:g} takes {config.duration / dt:.3g} steps of {dt:g}: "
                "too many"
            )
        steps = config.steps or max(1, math.ceil(config.duration / dt))
        dt = config.duration / steps if config.steps or math.isfinite(dt) else dt
    if math.isinf(dt):
        raise ConfigError(f"with {limit} steps may have any length: give dt, or duration and steps")
    if dt > dt_max:
        raise ConfigError(
            f"time step {dt:g} is unstable: the largest stable one is {dt_max:.6g}, so use --dt "
            f"{SAFE * dt_max:.3g}"
        )
    if not math.isfinite(steps * dt) or dt == 0:
        raise ConfigError(
            f"{steps} steps of {dt:g} are no time that 64-bit numbers can tell: use others"
        )
    if config.snapshots > steps + 1:
        raise ConfigError(
            f"snapshots = {config.snapshots}, but {steps} steps have only {steps + 1} moments to "
            "write"
        )
    return steps, dt


def marks(steps: int, count: int) -> dict[int, int]:
    """Step to number of the snapshot after it: evenly spaced, the last one at the end."""
    if count == 1:
        return {steps: 0}
    even = {round(i * steps / (count - 1)) for i in range(count)}
    return {step: number for number, step in enumerate(sorted(even))}
