"""What a training leaves for pictures and tables: numbers, in one file in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError, writing
from hpckit.files import replacing

FILE = "results.npz"


class Outcome(NamedTuple):
    """How a training went, and what its surrogate is worth.

    losses : (gradient steps,) mean squared error of each batch before it, normalised
    scores : (v, 5): gradient step, mean, 95 % and 99 % of the relative errors, MSE normalised
    simulations : that it was trained on
    times : (steps,) of the samples of a simulation
    errors : (simulations, steps) relative L2 of validation samples
    shown : (3,), those of best, median and worst simulation, in the mean over steps
    true, predicted : (3, times, ...) of the first field: all times where it is on a line, else
        the one where the error is largest
    shown_times : (3, times)
    field : its name
    """

    losses: np.ndarray
    scores: np.ndarray
    simulations: np.ndarray
    times: np.ndarray
    errors: np.ndarray
    shown: np.ndarray
    shown_times: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    field: np.ndarray


class Course(NamedTuple):
    """What happened on the way, where solvers computed during the training.

    buffer : (n, 3): gradient step, population, unseen, of the first trainer
    capacity, reuse : of the buffer, and how many samples were drawn 0, 1, 2, ... times
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
    """Those of a folder: trainings by name, "online" and "offline", and the way of the first."""

    trainings: dict[str, Outcome]
    course: Course | None

    def save(self, folder: Path) -> Path:
        """Write them, whole or not at all; `HpckitError` where that cannot be done."""
        arrays = {
            f"{name}/{key}": value
            for name, each in self.trainings.items()
            for key, value in each._asdict().items()
        }
        if self.course:
            arrays |= {f"course/{key}": value for key, value in self.course._asdict().items()}
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
            course = found.pop("course", None)
            trainings = {name: Outcome(**each) for name, each in found.items()}
            return cls(trainings, Course(**course) if course else None)
        except FileNotFoundError:
            raise ConfigError(
                f"there are no results in {folder}: give the folder of a run, or run it"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read as results: {error}") from None


def ratio(trainings: Mapping[str, Outcome]) -> float | None:
    """Online's validation error by offline's, at the end of as many gradient steps; None: one."""
    if not {"online", "offline"} <= set(trainings):
        return None
    online, offline = (trainings[name].scores[-1] for name in ("online", "offline"))
    return float(online[-1] / offline[-1]) if online[0] == offline[0] else None
