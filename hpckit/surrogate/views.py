"""What a network is shown of a simulation: how steps become samples (x, y).

| view | x | y |
| --- | --- | --- |
| `direct` | parameters, time | the fields then |
| `initial` | parameters, time, fields of step 0 | the fields then, of later steps |
| `pairs:D` | parameters, time, fields | the fields D steps later |
| `window:n` | parameters, time of the last of n steps, their fields | the fields one step later |

The steps of a simulation come in their order, those of simulations in different lanes mixed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpckit.errors import ConfigError, HpckitError

if TYPE_CHECKING:
    from hpckit.surrogate.solver import Fields

Columns = dict[str, tuple[tuple[int, ...], Any]]  # name to shape and dtype of a row's entry
Arrays = dict[str, np.ndarray]
_FORM = re.compile(r"(direct|initial|pairs|window)(?::(0|[1-9]\d*))?")
_FIRST = 16  # initial fields that are kept, until there are more


class View(NamedTuple):
    """A view of any solver's steps; `bind` makes it one of a certain solver's.

    kind : direct, initial, pairs or window
    number : D of pairs, n of windows, else 0
    """

    kind: str
    number: int

    def bind(self, parameters: int, fields: Fields) -> BoundView:
        """The view of simulations with so many parameters and these fields."""
        if self.kind == "direct":
            return BoundView(parameters, fields)
        if self.kind == "initial":
            return _Initial(parameters, fields)
        history, lag = (1, self.number) if self.kind == "pairs" else (self.number, 1)
        return _Past(parameters, fields, history, lag)

    def fewest(self) -> int:
        """How many steps a simulation must have to give a sample."""
        return {"direct": 1, "initial": 2}.get(self.kind, self.number + 1)


def parse(text: str) -> View:
    """The view of this name; `ConfigError` where there is none.

    ::

        parse("window:3")
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) else None
    numbered = bool(found) and found[1] in ("pairs", "window")
    if not found or numbered != (found[2] is not None) or found[2] == "0":
        raise ConfigError(
            f"view = {text!r} must be direct, initial, pairs:D or window:n, with D and n at least 1"
        )
    return View(found[1], int(found[2] or 0))


class BoundView:
    """Makes rows of a buffer from messages, and batches from rows; this one is `direct`.

    scalars : first columns of x, the parameters and the time; history : whole fields after them
    inputs, outputs : lengths of x and y
    columns : of a buffer's row: "simulation", "x", "y", and what the view needs itself
    """

    def __init__(self, parameters: int, fields: Fields, history: int = 0) -> None:
        self.scalars = parameters + 1
        self.history = history
        self.inputs = self.scalars + history * fields.size
        self.outputs = fields.size
        self.columns: Columns = {
            "simulation": ((), np.int64),
            "x": ((self.inputs,), np.float32),
            "y": ((self.outputs,), np.float32),
        }
        self._x = np.empty(self.inputs, np.float32)

    def feed(self, message: Any) -> Mapping[str, Any] | None:
        """The row of the sample that a message completes, good until the next one; None: of none.

        `HpckitError` where steps of a simulation are missing.
        """
        return self._row(message, message["time"])

    def gather(self, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """x (B, inputs) and y (B, outputs) of rows that were drawn, float32, in physical units.

        They are `rows`' own arrays or the view's, good until the next batch.
        """
        return rows["x"], rows["y"]

    def leaves(self, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """Hear that these rows leave; those that were drawn are gathered before the next feed."""

    def state(self) -> Arrays:
        """What is known of simulations that go on; arrays, not copied."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over a state, and its arrays."""

    def _row(self, message: Any, time: float) -> dict[str, Any]:
        self._x[: self.scalars - 1] = message["parameters"]
        self._x[self.scalars - 1] = time
        return {"simulation": message["simulation"], "x": self._x, "y": message["values"]}


class _Open(NamedTuple):
    """The simulation that a lane is at, the last step of it, and where its fields are kept."""

    simulation: int
    step: int
    place: int

    def check(self, message: Any) -> None:
        """`HpckitError` unless the message has the next step."""
        if message["step"] != self.step + 1:
            raise HpckitError(
                f"step {message['step']} of simulation {message['simulation']} came after step "
                f"{self.step}: the steps between were lost"
            )


class _Lanes(BoundView):
    """Keeps fields of simulations that go on, one simulation per lane."""

    _kept: tuple[str, ...]  # arrays with a row per place

    def __init__(self, parameters: int, fields: Fields, history: int) -> None:
        super().__init__(parameters, fields, history)
        self._open: dict[int, _Open] = {}

    def state(self) -> Arrays:
        lanes = np.array([(lane, *each) for lane, each in self._open.items()], np.int64)
        return {"open": lanes.reshape(-1, 4)} | {name: getattr(self, name) for name in self._kept}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._open = {lane: _Open(*each) for lane, *each in arrays["open"].tolist()}
        for name in self._kept:
            setattr(self, name, arrays[name])

    def _next(self, message: Any) -> int:
        """The place of the message's simulation, once its step is known to be the next one."""
        lane, simulation = int(message["lane"]), int(message["simulation"])
        last = self._open.get(lane)
        if last is None or last.simulation != simulation:
            last = _Open(simulation, -1, self._new_place(last))
        last.check(message)
        self._open[lane] = last._replace(step=last.step + 1)
        return last.place

    def _new_place(self, last: _Open | None) -> int:
        """Where a simulation's fields are to be kept, after the lane's last one."""
        raise NotImplementedError

    def _grow(self) -> None:
        for name in self._kept:
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))


class _Past(_Lanes):
    """`pairs` and `window`: the last fields of a simulation, and those `lag` steps after them."""

    _kept = ("fields", "times")

    def __init__(self, parameters: int, fields: Fields, history: int, lag: int) -> None:
        super().__init__(parameters, fields, history)
        self._lag = lag
        self._depth = history + lag - 1  # steps that are kept
        self.fields = np.zeros((1, self._depth, fields.size), np.float32)
        self.times = np.zeros((1, self._depth))

    def feed(self, message: Any) -> Mapping[str, Any] | None:
        place, step = self._next(message), int(message["step"])
        fields, times = self.fields[place], self.times[place]
        row = None
        if step >= self._depth:
            row = self._row(message, times[(step - self._lag) % self._depth])
            past = self._x[self.scalars :].reshape(self.history, self.outputs)
            for i in range(self.history):
                past[i] = fields[(step + i) % self._depth]  # the same as step - depth + i
        fields[step % self._depth] = message["values"]
        times[step % self._depth] = message["time"]
        return row

    def _new_place(self, last: _Open | None) -> int:
        if last is not None:
            return last.place
        if len(self._open) == len(self.fields):
            self._grow()
        return len(self._open)


class _Initial(_Lanes):
    """`initial`: rows say where the field of step 0 is, which is kept once per simulation.

    Its place is free when no row in the buffer says so any more, and its lane has gone on.
    """

    _kept = ("initial", "counts")

    def __init__(self, parameters: int, fields: Fields) -> None:
        super().__init__(parameters, fields, history=1)
        self.columns["x"] = ((self.scalars,), np.float32)
        self.columns["place"] = ((), np.int64)
        self.initial = np.zeros((_FIRST, fields.size), np.float32)
        self.counts = np.zeros(_FIRST, np.int64)
        self._batch = np.empty((0, self.inputs), np.float32)

    def feed(self, message: Any) -> Mapping[str, Any] | None:
        place = self._next(message)
        if message["step"] == 0:
            self.initial[place] = message["values"]
            return None
        self.counts[place] += 1
        row = self._row(message, message["time"])
        return row | {"x": self._x[: self.scalars], "place": place}

    def gather(self, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        n = len(rows["place"])
        if len(self._batch) < n:
            self._batch = np.empty((n, self.inputs), np.float32)
        x = self._batch[:n]
        x[:, : self.scalars] = rows["x"]
        for sample, place in zip(x, rows["place"], strict=True):
            sample[self.scalars :] = self.initial[place]
        return x, rows["y"]

    def leaves(self, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        np.subtract.at(self.counts, columns["place"][rows], 1)

    def _new_place(self, last: _Open | None) -> int:
        if last is not None:
            self.counts[last.place] -= 1
        free = np.flatnonzero(self.counts == 0)
        if not len(free):
            free = [len(self.counts)]
            self._grow()
        self.counts[free[0]] = 1
        return int(free[0])
