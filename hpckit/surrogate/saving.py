"""A study on disk: resumed, it goes on with the same bits."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError, together
from hpckit.io.checkpoint import Checkpoint
from hpckit.surrogate.validation import Score

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.surrogate.training import Training


class Saving:
    """Checkpoints of a study (collective over the trainers in all methods).

    identity : what must be the same when it is resumed, by name; JSON
    """

    def __init__(
        self, folder: str | os.PathLike[str], comm: MPI.Intracomm, identity: Mapping[str, Any]
    ) -> None:
        self._comm = comm
        self._identity = dict(identity)
        self._checkpoint = Checkpoint(folder, comm, rules="per rank")

    def exists(self) -> bool:
        """Whether there is anything to resume."""
        return self._checkpoint.exists()

    def save(self, training: Training) -> None:
        """Keep where the training is."""
        arrays, facts = _state(training)
        facts |= {"source": training.source.state()}
        arrays["facts"] = _bytes(json.dumps(facts).encode())
        self._checkpoint.save(training.done, 0.0, arrays, {"identity": self._identity})

    def load(self, training: Training) -> Any:
        """Go on where it was saved; the state of its source.

        `ConfigError` where that was another study.
        """
        _, _, extra = self._checkpoint.load({})  # another study has other arrays
        with together(self._comm):
            self._check(extra["identity"])
        arrays: dict[str, Any] = dict.fromkeys([*_state(training)[0], "facts"])
        self._checkpoint.load(arrays)
        with together(self._comm):
            facts = json.loads(arrays.pop("facts").tobytes())
            _restore(training, arrays, facts)
        return facts["source"]

    def _check(self, saved: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(self._identity))
        for name in ours:
            if saved.get(name) != ours[name]:
                raise ConfigError(
                    f"the checkpoints in {self._checkpoint.directory} are of another study, with"
                    f" {name} = {saved.get(name)} instead of {ours[name]}: choose another folder,"
                    " or start over without resume"
                )


def _state(training: Training) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All that the next gradient steps depend on, and what became of the ones before."""
    intake, history = training.intake, training.history
    buffer, buffered = intake.buffer.state()
    validation, validated = intake.validation.state()
    arrays = {
        "engine": _bytes(training.engine.state()),
        "losses": np.array(history.losses),
        **_named("buffer", buffer),
        **_named("view", intake.view.state()),
        **_named("validation", validation),
    }
    facts = {
        "ledger": intake.ledger.state(),
        "lanes": intake.lanes,
        "left": training.left,
        "scores": history.scores,
        "normaliser": training.normaliser.state(),
        "sampler": training.sampler.state(),
        "buffer": buffered,
        "validation": validated,
    }
    return arrays, facts


def _restore(training: Training, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    intake, history = training.intake, training.history
    training.engine.restore(arrays["engine"].tobytes())
    training.normaliser.restore(facts["normaliser"])
    training.sampler.restore(facts["sampler"])
    training.left = facts["left"]
    history.losses = array("d", arrays["losses"].tobytes())
    history.scores = [Score(*each) for each in facts["scores"]]
    intake.ledger.restore(facts["ledger"])
    intake.lanes = facts["lanes"]
    intake.view.restore(_part("view", arrays))
    intake.buffer.restore(_part("buffer", arrays), facts["buffer"])
    intake.validation.restore(_part("validation", arrays), facts["validation"])


def _named(what: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{what}/{name}": each for name, each in arrays.items()}


def _part(what: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{what}/"
    return {k.removeprefix(start): each for k, each in arrays.items() if k.startswith(start)}


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)
