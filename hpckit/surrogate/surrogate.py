"""A trained surrogate, in physical units, and its file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from hpckit.errors import ConfigError, writing
from hpckit.files import replacing
from hpckit.log import get_logger
from hpckit.surrogate import engine
from hpckit.surrogate.normaliser import Normaliser
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.space import Box

FILE = "surrogate.npz"
_log = get_logger(__name__)


class Surrogate:
    """A trained network that gives what a solver would compute.

    ::

        surrogate = result.surrogate  # in another process: Surrogate.load("model")
        surrogate.predict({"rate": 1.0}, time=0.5)["u"]

    space, fields, about : the solver's, and what trained it
    view : what a prediction is made of: with `history`, fields too
    history : so many times of all fields are known for a prediction
    """

    def __init__(
        self,
        model: bytes,
        normaliser: Normaliser,
        *,
        view: str,
        space: Box,
        fields: Fields,
        about: Mapping[str, Any],
    ) -> None:
        self.view = view
        self.space = space
        self.fields = fields
        self.about = dict(about)
        self._exported = model
        self._model = engine.load(model)
        self._normaliser = normaliser
        self.history = self._model.shapes.history

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """That which a study has left in its folder.

        The network is unpickled: load only what you would run. Raises `ConfigError` where there is
        none, or its library is not installed.
        """
        path = Path(folder, FILE)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                facts = json.loads(content["facts"].tobytes())
                model = content["model"].tobytes()
        except FileNotFoundError:
            raise ConfigError(f"there is no {path}: no study has ended there yet") from None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} is no surrogate, or is damaged: {error}") from None
        fields = Fields.of({name: tuple(shape) for name, shape in facts["fields"].items()})
        space = Box(**{name: tuple(ends) for name, ends in facts["space"].items()})
        normaliser = Normaliser(space.size + 1, facts["history"], fields)
        normaliser.restore(facts["normaliser"])
        view, about = facts["view"], facts["about"]
        return cls(model, normaliser, view=view, space=space, fields=fields, about=about)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all; `HpckitError` where the disk does not take it."""
        ends = zip(self.space.low.tolist(), self.space.high.tolist(), strict=True)
        facts = {
            "fields": dict(zip(self.fields.names, self.fields.shapes, strict=True)),
            "space": dict(zip(self.space.names, ends, strict=True)),
            "view": self.view,
            "history": self.history,
            "normaliser": self._normaliser.state(),
            "about": self.about,
        }
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        path = Path(folder, FILE)
        with writing(path), replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, facts=text, model=np.frombuffer(self._exported, np.uint8))

    def predict(
        self,
        parameters: Mapping[str, ArrayLike],
        time: ArrayLike,
        history: Mapping[str, ArrayLike] | None = None,
    ) -> dict[str, np.ndarray]:
        """The fields, float32, in the solver's units: of one case, or of many at once.

        parameters : each a number, or (cases,) of them; it warns of what is outside `space`
        time : a number, or (cases,): of the fields that are wanted, in the views "direct" and
            "initial"; in the others of the newest known ones
        history : name -> known fields, (*shape,) or (cases, *shape): for "initial" those of step 0,
            for "pairs:D" the newest; for "window:n" (n, *shape) or (cases, n, *shape)

        Returns name -> (*shape,), or (cases, *shape). Raises `ConfigError` for missing and unknown
        names, and for other shapes.
        """
        scalars = self._scalars(parameters, time)
        known = self._known(history)
        try:
            shape = np.broadcast_shapes(scalars.shape[:-1], known.shape[:-1])
        except ValueError:
            raise ConfigError(
                f"parameters and times are of {len(scalars)} cases, the history of {len(known)}"
            ) from None
        x = np.empty((*shape, self._model.shapes.inputs), np.float32)
        x[..., : scalars.shape[-1]] = scalars
        x[..., scalars.shape[-1] :] = known
        x = x.reshape(-1, x.shape[-1])
        self._normaliser.inputs(x)
        y = self._model.predict(x)
        self._normaliser.undo(y)
        return self.fields.unpack(y.reshape(*shape, -1))

    def rollout(
        self,
        parameters: Mapping[str, float],
        times: ArrayLike,
        history: Mapping[str, ArrayLike],
    ) -> dict[str, np.ndarray]:
        """Predictions of predictions, for the views "pairs:D" and "window:n".

        times : (n,), of the newest known fields before each prediction
        history : as in `predict`, of one case

        Returns name -> (n, *shape).
        """
        if not self.view.startswith(("pairs", "window")):
            raise ConfigError(f"view {self.view!r} gives any time at once: use predict")
        known = self._known(history).reshape(self.history, self.fields.size)
        found = np.empty((len(np.atleast_1d(times)), self.fields.size), np.float32)
        for newest, time in zip(found, np.atleast_1d(times), strict=True):
            past = self.fields.unpack(known if self.history > 1 else known[0])
            for name, field in self.predict(parameters, time, past).items():
                self.fields.unpack(newest)[name][...] = field
            known = np.concatenate([known[1:], newest[None]])
        return self.fields.unpack(found)

    def _scalars(self, parameters: Mapping[str, ArrayLike], time: ArrayLike) -> np.ndarray:
        """Parameters and time, (size + 1,) or (cases, size + 1)."""
        if set(parameters) != set(self.space.names):
            raise ConfigError(
                f"parameters {', '.join(parameters) or 'none'} were given: the surrogate needs"
                f" {', '.join(self.space.names)}"
            )
        columns = [np.asarray(parameters[name], np.float64) for name in self.space.names]
        try:
            columns = np.broadcast_arrays(*columns, np.asarray(time, np.float64))
        except ValueError:
            shapes = ", ".join(str(each.shape) for each in columns)
            raise ConfigError(
                f"parameters of shapes {shapes} and times of {np.shape(time)} are not of the same"
                " cases"
            ) from None
        if columns[0].ndim > 1:
            raise ConfigError(f"parameters must be numbers or (cases,), not {columns[0].shape}")
        scalars = np.stack(columns, axis=-1)
        cases = scalars.reshape(-1, len(columns))[:, :-1]
        outside = [self.space.outside(ends) for ends in (cases.min(axis=0), cases.max(axis=0))]
        for text in dict.fromkeys(filter(None, outside)):
            _log.warning("predicting outside of what was trained: %s", text)
        return scalars

    def _known(self, history: Mapping[str, ArrayLike] | None) -> np.ndarray:
        """Known fields, flat: (history * size,) or (cases, history * size)."""
        if self.history == 0:
            if history is not None:
                raise ConfigError(f"view {self.view!r} takes no history")
            return np.empty((0,), np.float32)
        if history is None or set(history) != set(self.fields.names):
            raise ConfigError(
                f"view {self.view!r} needs known fields of {', '.join(self.fields.names)}"
            )
        steps = () if self.history == 1 else (self.history,)
        parts = []
        for name, shape in zip(self.fields.names, self.fields.shapes, strict=True):
            field = np.asarray(history[name], np.float32)
            wanted = (*steps, *shape)
            if field.shape[-len(wanted) :] != wanted or field.ndim > len(wanted) + 1:
                raise ConfigError(
                    f"history of {name!r} has shape {field.shape}, it must be {wanted}, or that"
                    " after the number of cases"
                )
            parts.append(field.reshape(*field.shape[: field.ndim - len(wanted)], self.history, -1))
        known = np.concatenate(parts, axis=-1)
        return known.reshape(*known.shape[:-2], -1)
