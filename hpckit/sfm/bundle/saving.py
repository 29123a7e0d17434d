"""A running solve on disk: resumed, it goes on with the same bits."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.comm.partition import starts
from hpckit.errors import ConfigError
from hpckit.io.checkpoint import Checkpoint
from hpckit.sfm.bundle.frame import Frame
from hpckit.sfm.bundle.levenberg_marquardt import Progress
from hpckit.sfm.bundle.problem import Problem
from hpckit.sfm.bundle.result import Iteration
from hpckit.sfm.bundle.state import State, state
from hpckit.sfm.bundle.table import recut


class Saved(NamedTuple):
    """What a checkpoint holds."""

    state: State
    progress: Progress
    history: list[Iteration]
    frame: Frame
    solver: str


class Saving:
    """Checkpoints of one solve in a folder (collective in all methods).

    identity : what must be the same when it is resumed, in words
    """

    def __init__(
        self, folder: str | os.PathLike[str], comm: MPI.Intracomm, problem: Problem, identity: str
    ) -> None:
        rows = "rows" if problem.layout.side == "poses" else "same"
        points = "same" if problem.layout.side == "poses" else "rows"
        rules = {"quaternion": rows, "translation": rows, "parameters": "same", "points": points}
        self._own = problem.layout.side == "poses" and problem.layout.eliminated_width > 6
        if self._own:
            rules["own"] = "rows"
        self._rules = rules
        self._comm = comm
        self._problem = problem
        self._identity = identity
        self._checkpoint = Checkpoint(folder, comm, rules=rules)

    def exists(self) -> bool:
        """Whether there is anything to resume."""
        return self._checkpoint.exists()

    def save(self, what: Saved, finished: bool = False) -> None:
        """Keep where the solve is; `finished`: nothing is left to do."""
        extra = {
            "finished": finished,
            "solver": what.solver,
            "identity": self._identity,
            "progress": _texts(asdict(what.progress)),
            "history": [_texts(asdict(iteration)) for iteration in what.history],
            "frame": [float(x).hex() for x in (*what.frame.centre, what.frame.scale)],
        }
        self._checkpoint.save(what.progress.done, 0.0, self._arrays(what.state), extra)

    def load(self, like: State) -> Saved:
        """Where it was; `ConfigError` where the checkpoint is of another problem."""
        arrays: dict[str, Any] = {
            name: None if self._rules[name] == "rows" else np.array(array)
            for name, array in self._arrays(like).items()
        }
        _, _, extra = self._checkpoint.load(arrays)
        if extra["identity"] != self._identity:
            raise ConfigError(
                f"the checkpoint is of another solve: it has {extra['identity']}, this is "
                f"{self._identity}"
            )
        for name in self._rules:
            if self._rules[name] == "rows":  # even blocks of them come, whoever saved them
                arrays[name] = self._cut(arrays[name])
        numbers = [float.fromhex(text) for text in extra["frame"]]
        progress = Progress(**_numbers(extra["progress"]))
        history = [Iteration(**_numbers(each)) for each in extra["history"]]
        place = Frame(np.array(numbers[:3]), numbers[3])
        return Saved(self._state(like, arrays), progress, history, place, extra["solver"])

    def _cut(self, rows: np.ndarray) -> np.ndarray:
        """Even blocks of rows, cut as the eliminated blocks are."""
        edges = self._problem.table.edges
        even = np.array(starts(int(edges[-1]), self._comm.size))
        return recut(self._comm, rows, even, edges)

    def _arrays(self, of: State) -> dict[str, np.ndarray]:
        problem = self._problem
        rows = problem.mine if problem.layout.side == "poses" else slice(None)
        arrays = {
            "quaternion": of.quaternion[rows],
            "translation": of.translation[rows],
            "parameters": of.parameters,
            "points": of.points,
        }
        if self._own:
            arrays["own"] = of.parameters[problem.camera[rows]]
            arrays["parameters"] = np.zeros(1)
        return arrays

    def _state(self, like: State, arrays: dict[str, np.ndarray]) -> State:
        problem = self._problem
        rows = problem.mine if problem.layout.side == "poses" else slice(None)
        quaternion, translation = like.quaternion.copy(), like.translation.copy()
        quaternion[rows], translation[rows] = arrays["quaternion"], arrays["translation"]
        parameters = arrays["parameters"]
        if self._own:
            parameters = like.parameters.copy()
            parameters[problem.camera[rows]] = arrays["own"]
        return state(quaternion, translation, parameters, arrays["points"])


def _texts(values: dict[str, Any]) -> dict[str, Any]:
    """Floats in hexadecimal: all of their bits, and NaN, in JSON."""
    return {k: v.hex() if isinstance(v, float) else v for k, v in values.items()}


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse."""
    return {k: float.fromhex(v) if isinstance(v, str) else v for k, v in values.items()}
