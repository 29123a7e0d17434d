"""Predict with a surrogate that was trained, from its folder alone."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.surrogate import pictures
from hpckit.apps.surrogate.results import FILE, Results
from hpckit.errors import ConfigError, writing
from hpckit.files import replacing
from hpckit.surrogate.surrogate import Surrogate

if TYPE_CHECKING:
    from hpckit.apps.surrogate.config import Predict
    from hpckit.apps.surrogate.job import Job

_TIMES = 6  # where the case names none


def run(job: Job) -> dict[str, Any]:
    """The fields at some times, as a file and a picture; rank 0 makes them (collective)."""
    found: dict[str, Any] = {}
    with job.drawing():
        if job.comm.rank == 0:
            found = _predict(job)
    return found | job.written


def _predict(job: Job) -> dict[str, Any]:
    config, folder = job.config.predict, job.folder
    surrogate = Surrogate.load(folder)
    parameters = _parameters(surrogate, config)
    times = np.array(config.times or _times(folder))
    fields = _fields(surrogate, parameters, times, config)
    path = folder / "prediction.npz"
    with writing(path), replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, **{"times": times, **fields})  # type: ignore[arg-type]
    job.files.append(path)
    if job.config.pictures:
        name = surrogate.fields.names[0]
        job.files.append(pictures.series(folder / "prediction.png", times, fields[name], name))
    said = ", ".join(f"{name} = {value:g}" for name, value in parameters.items())
    return {"parameters": said, "times": ", ".join(f"{time:g}" for time in times)}


def _parameters(surrogate: Surrogate, config: Predict) -> dict[str, float]:
    """Those that the case gives, and the middle of the box for the others."""
    space = surrogate.space
    unknown = sorted(set(config.parameters) - set(space.names))
    if unknown:
        raise ConfigError(
            f"predict.parameters: {', '.join(unknown)} is not known: the surrogate has "
            f"{', '.join(space.names)}"
        )
    return space.dict((space.low + space.high) / 2) | config.parameters


def _times(folder: Path) -> np.ndarray:
    """Some of those of the validation simulations."""
    if not (folder / FILE).exists():
        raise ConfigError(f"there is no {folder / FILE} that knows times: give --predict.times")
    times = next(iter(Results.load(folder).trainings.values())).times
    return times[np.linspace(0, len(times) - 1, min(_TIMES, len(times))).round().astype(int)]


def _fields(
    surrogate: Surrogate, parameters: dict[str, float], times: np.ndarray, config: Predict
) -> dict[str, np.ndarray]:
    """Each field at all times, (times, ...)."""
    history = _history(config) if surrogate.history else None
    if history is not None and surrogate.view.startswith(("pairs", "window")):
        return surrogate.rollout(parameters, times, history)
    each = {name: np.full(len(times), value) for name, value in parameters.items()}
    if history is not None:
        history = {k: np.broadcast_to(v, (len(times), *v.shape)) for k, v in history.items()}
    return surrogate.predict(each, times, history)


def _history(config: Predict) -> dict[str, np.ndarray]:
    """The known fields that a file gives by name."""
    if not config.history:
        raise ConfigError("this surrogate goes on from known fields: give --predict.history")
    try:
        with np.load(config.history) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ConfigError(f"{config.history} cannot be read as .npz: {error}") from None
