"""What trainings leave for pictures and tables: numbers, in one file in their folder."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError, writing
from hpckit.files import replacing

FILE = "results.npz"


class Outcome(NamedTuple):
    """How a training went, and what its surrogate is worth; arrays only.

    label : for people, such as "offline, 100 simulations"
    losses : (gradient steps,) mean squared error of each batch before it, normalised
    scores : (v, 5): gradient step, mean, 95 % and 99 % of the relative errors, MSE normalised
    times, errors : (steps,) of validation simulations, (simulations, steps) relative L2
    shown : (3,) mean error of best, median and worst simulation, of which `field`, (3, times),
        (3, times, ...) are shown
    """

    label: np.ndarray
    losses: np.ndarray
    scores: np.ndarray
    times: np.ndarray
    errors: np.ndarray
    shown: np.ndarray
    field: np.ndarray
    shown_times: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


class Course(NamedTuple):
    """What happened while solvers computed and trainers trained; arrays only.

    buffer : (n, 3): gradient step, population, unseen, of the first trainer
    capacity, reuse : of it, and how many of all samples were drawn 0, 1, 2, ... times
    ranks, kinds, seconds : names, kinds of work, and (ranks, kinds)
    names, limits, parameters : of the box, (2, d), and of the simulations, (n, d)
    """

    buffer: np.ndarray
    capacity: np.ndarray
    reuse: np.ndarray
    ranks: np.ndarray
    kinds: np.ndarray
    seconds: np.ndarray
    names: np.ndarray
    limits: np.ndarray
    parameters: np.ndarray


class Results(NamedTuple):
    """Those of a folder; None is what was not done there."""

    online: Outcome | None = None
    offline: Outcome | None = None
    course: Course | None = None

    @property
    def trainings(self) -> dict[str, Outcome]:
        """The outcomes by name, "online" and "offline"."""
        both = {"online": self.online, "offline": self.offline}
        return {name: each for name, each in both.items() if each is not None}

    @property
    def ratio(self) -> float | None:
        """Online's validation error by offline's at the end, where they trained equally long."""
        if self.online is None or self.offline is None:
            return None
        online, offline = self.online.scores[-1], self.offline.scores[-1]
        return float(online[-1] / offline[-1]) if online[0] == offline[0] else None

    def save(self, folder: Path) -> Path:
        """Write them, whole or not at all; `HpckitError` where that cannot be done."""
        arrays = {
            f"{name}/{key}": value
            for name, part in self._asdict().items()
            if part is not None
            for key, value in part._asdict().items()
        }
        path = folder / FILE
        with writing(path), replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)
        return path

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Those of a folder; `ConfigError` where there are none, or it is another file."""
        path = folder / FILE
        try:
            with np.load(path) as file:
                found: dict[str, dict[str, Any]] = {}
                for key in file.files:
                    name, _, entry = key.partition("/")
                    found.setdefault(name, {})[entry] = file[key]
            kinds = {"online": Outcome, "offline": Outcome, "course": Course}
            return cls(**{name: kinds[name](**each) for name, each in found.items()})
        except FileNotFoundError:
            raise ConfigError(
                f"there are no results in {folder}: give the folder of a run that has ended"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} cannot be read as results: {error}") from None
