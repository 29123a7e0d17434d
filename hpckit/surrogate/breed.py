"""Steering: more simulations where the network is worse than elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from hpckit.errors import ConfigError
from hpckit.surrogate.space import STEERING, Box, Uniform, random

_TRIES = 10  # of a child, until the parent itself is taken
_NARROWER = 0.3  # its covariance after each try outside the box


class Breed(Uniform):
    """Draws near simulations whose losses stand out, and uniformly besides.

    ::

        sampler = Breed(share=0.3)

    How much a simulation stands out is the mean, over its samples in all batches, of
    max(0, (loss - mean) / deviation), both of the batch's losses. A parent is drawn with a
    probability in proportion to it, and its child from a normal distribution about it. After
    Dymchenko, Purandare, Raffin: MelissaDL x Breed, arXiv 2410.05860, with children drawn one by
    one, when they are needed, instead of in generations.

    share : of children among all simulations, once `ramp` simulations were drawn; 0 at first and
        linear between
    spread : standard deviation of a child in each parameter, in units of the box's range
    parents : how many of the last simulations can be parents

    Each trainer has its own, which knows of the simulations that it trains on. Raises
    `ConfigError` for shares that are not from 0 to below 1, and numbers that are not above 0.
    """

    _arrays = ("_numbers", "_vectors", "_sums", "_counts")
    _numbers: np.ndarray
    _vectors: np.ndarray
    _sums: np.ndarray
    _counts: np.ndarray

    def __init__(
        self, share: float = 0.2, ramp: int = 100, spread: float = 0.07, parents: int = 400
    ) -> None:
        self.share = share
        self.ramp = ramp
        self.spread = spread
        self.parents = parents
        if not 0 <= share < 1:
            raise ConfigError(
                f"share = {share} of Breed must be from 0 to below 1: some simulations must be "
                "drawn everywhere"
            )
        for name in ("ramp", "spread", "parents"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)} of Breed must be above 0")

    def __repr__(self) -> str:
        return (
            f"Breed(share={self.share}, ramp={self.ramp}, spread={self.spread}, "
            f"parents={self.parents})"
        )

    def bind(self, box: Box, seed: int) -> Self:
        bound = super().bind(box, seed)
        bound._numbers = np.full(self.parents, -1)  # simulation s is in row s % parents
        bound._vectors = np.zeros((self.parents, box.size))
        bound._sums = np.zeros(self.parents)
        bound._counts = np.zeros(self.parents)
        return bound

    def draw(self, simulation: int) -> np.ndarray:
        """As drawn first, while it is one of the last: a simulation that is solved again."""
        row = simulation % self.parents
        if self._numbers[row] != simulation:
            self._vectors[row] = self._new(simulation)
            self._numbers[row] = simulation
            self._sums[row] = self._counts[row] = 0
        return self._vectors[row].copy()

    def learn(self, simulations: np.ndarray, losses: np.ndarray) -> None:
        excess = np.maximum(losses - losses.mean(dtype=np.float64), 0)
        deviation = losses.std(dtype=np.float64)
        rows = simulations % self.parents
        known = self._numbers[rows] == simulations
        if deviation > 0:
            np.add.at(self._sums, rows[known], excess[known] / deviation)
        np.add.at(self._counts, rows[known], 1)

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in self._arrays}

    def restore(self, state: Mapping[str, Any]) -> None:
        if len(state["_numbers"]) != self.parents:
            raise ConfigError(
                f"parents = {self.parents} of Breed, but {len(state['_numbers'])} were saved: "
                "go on with the sampler that was saved"
            )
        for name in self._arrays:
            setattr(self, name, np.array(state[name]))

    def _new(self, simulation: int) -> np.ndarray:
        chance = random(self.seed, STEERING, simulation)
        if chance.random() >= self.share * min(1.0, simulation / self.ramp):
            return super().draw(simulation)
        fitness = self._sums / np.maximum(self._counts, 1)
        if not fitness.any():
            return super().draw(simulation)
        parent = self._vectors[chance.choice(self.parents, p=fitness / fitness.sum())]
        return self._child(parent, chance)

    def _child(self, parent: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        deviation = self.spread * (self.box.high - self.box.low)
        for _ in range(_TRIES):
            child = parent + deviation * chance.standard_normal(self.box.size)
            if self.box.contains(child):
                return child
            deviation *= _NARROWER**0.5
        return parent
