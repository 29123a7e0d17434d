"""The parameters of simulations: between what they lie, and which ones are solved."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from hpckit.errors import ConfigError

# Streams of random numbers of a study's seed: no two draws share one.
TRAINING, VALIDATION, STEERING, BUFFER = range(4)


class Box:
    """Between what each parameter lies, ends included.

    ::

        box = Box(ic=(100, 500), nu=(0.01, 0.1))
        box.dict(box.low)  # {"ic": 100.0, "nu": 0.01}

    names : of the parameters, in the order in which vectors have them
    low, high : (size,) float64

    Raises `ConfigError` for what are no two finite numbers, the lower first; equal ones fix it.
    """

    def __init__(self, /, **ranges: tuple[float, float]) -> None:
        if not ranges:
            raise ConfigError("a box needs at least one parameter, as in Box(nu=(0.01, 0.1))")
        self.names = tuple(ranges)
        self.size = len(ranges)
        ends = np.array([_ends(name, given) for name, given in ranges.items()])
        self.low, self.high = ends.T.copy()

    def __repr__(self) -> str:
        ends = zip(self.names, self.low.tolist(), self.high.tolist(), strict=True)
        return f"Box({', '.join(f'{name}=({low}, {high})' for name, low, high in ends)})"

    def dict(self, vector: Sequence[float] | np.ndarray) -> dict[str, float]:
        """A vector (size,) by the names of its parameters."""
        return dict(zip(self.names, map(float, vector), strict=True))

    def vector(self, parameters: Mapping[str, float]) -> np.ndarray:
        """Parameters by name as a vector (size,) float64; `ConfigError` for others than its own."""
        if set(parameters) != set(self.names):
            raise ConfigError(
                f"parameters {', '.join(parameters)} were given, needed are {', '.join(self.names)}"
            )
        return np.array([float(parameters[name]) for name in self.names])

    def contains(self, vector: Sequence[float] | np.ndarray) -> bool:
        """Whether a vector (size,) lies in the box."""
        return not self.outside(vector)

    def outside(self, vector: Sequence[float] | np.ndarray) -> str:
        """Which parameters of a vector (size,) lie outside, and of what; empty where none does."""
        each = zip(self.names, vector, self.low, self.high, strict=True)
        return ", ".join(
            f"{name} = {value:g} is not in {low:g} to {high:g}"
            for name, value, low, high in each
            if not low <= value <= high
        )

    def scale(self, unit: np.ndarray) -> np.ndarray:
        """What is (…, size) from 0 to 1, in the box."""
        return np.clip(self.low + unit * (self.high - self.low), self.low, self.high)


def _ends(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(
            f"parameter {name} = {given!r} must be (low, high), two finite numbers, the lower first"
        )
    return low, high


class Sampler(Protocol):
    """Says which parameters a simulation has; one without `bind` is a description only."""

    def bind(self, box: Box, seed: int) -> Self:
        """A sampler of this box that has learned nothing yet."""
        ...

    def draw(self, simulation: int) -> np.ndarray:
        """Its parameters, (d,) float64: by the seed, its number, and what was learned."""
        ...

    def validation(self, number: int) -> np.ndarray:
        """Parameters (d,) of a validation simulation, 0, 1, …: the same for every sampler."""
        ...

    def learn(self, simulations: np.ndarray, losses: np.ndarray) -> None:
        """Hear the loss of each sample of a batch, (B,), and the simulation it is from, (B,)."""
        ...

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        ...


class Uniform:
    """Every point of the box is equally likely, in every simulation anew.

    ::

        sampler = Uniform().bind(Box(nu=(0.01, 0.1)), seed=0)
        sampler.draw(7)  # of simulation 7, always the same
    """

    box: Box
    seed: int

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def bind(self, box: Box, seed: int) -> Self:
        bound = copy.copy(self)
        bound.box = box
        bound.seed = seed
        return bound

    def draw(self, simulation: int) -> np.ndarray:
        return self.box.scale(random(self.seed, TRAINING, simulation).random(self.box.size))

    def validation(self, number: int) -> np.ndarray:
        return self.box.scale(random(self.seed, VALIDATION, number).random(self.box.size))

    def learn(self, simulations: np.ndarray, losses: np.ndarray) -> None:
        """It does not."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take over."""


class Sobol(Uniform):
    """Fills the box evenly, by Sobol's sequence, scrambled by the seed (Owen 1998).

    ::

        sampler = Sobol().bind(Box(nu=(0.01, 0.1)), seed=0)
    """

    _points: Any

    def bind(self, box: Box, seed: int) -> Self:
        from scipy.stats.qmc import Sobol as Sequence

        bound = super().bind(box, seed)
        if box.size > Sequence.MAXDIM:
            raise ConfigError(
                f"Sobol's sequence has at most {Sequence.MAXDIM} dimensions, the box {box.size}: "
                "use uniform"
            )
        bound._points = Sequence(box.size, rng=random(seed, TRAINING, 0))
        return bound

    def draw(self, simulation: int) -> np.ndarray:
        points = self._points
        if simulation < points.num_generated:
            points.reset()
        if ahead := simulation - points.num_generated:  # it does not take 0
            points.fast_forward(ahead)
        return self.box.scale(points.random(1)[0])


def random(seed: int, stream: int, number: int = 0) -> np.random.Generator:
    """Random numbers of their own for each stream of a seed, and each number in it."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, number]))
