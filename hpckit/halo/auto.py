"""Method `auto`: the model names the likely best methods, exchanges race them, the fastest stays.

Every decision is taken when an exchange starts: waiting may come in any order.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit.comm.measure import with_steps
from hpckit.comm.measure_device import with_device_steps
from hpckit.errors import HpckitError
from hpckit.halo.adrift import begin_owed
from hpckit.halo.bound_exchange import DOING, MEETING, Exchange, NotBegun
from hpckit.halo.methods import FALLBACK, METHODS, Method
from hpckit.machine.choice import Choice
from hpckit.machine.spin import Meeting

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.halo.pattern import Pattern
    from hpckit.machine.device_model import DeviceModel
    from hpckit.machine.model import Model

_DOUBT = 16.0  # times: a model that was measured on a busy machine may be off by so much

_chosen: weakref.WeakKeyDictionary[Grid, dict] = weakref.WeakKeyDictionary()


class Auto:
    """Chooses among the methods; calls `on_choice` when exchanges are to be bound anew."""

    def __init__(self, pattern: Pattern, tag: int, on_choice: Callable[[], None]) -> None:
        self._pattern = pattern
        self._tag = tag
        self._on_choice = on_choice
        self._kinds = METHODS[pattern.place.kind]
        self._methods: dict[str, Method] = {}
        met = pattern.grid.comm, tag + MEETING, pattern.deadline, DOING
        self._meeting = None if pattern.deadline is None else Meeting(*met)
        predicted = _predict(pattern)
        known = _chosen.setdefault(pattern.grid, {})
        key = pattern.signature(), frozenset(predicted)
        ranking = sorted(predicted, key=predicted.__getitem__)
        limit = _DOUBT * predicted[ranking[0]]
        self._choice = Choice(
            pattern.grid.comm,
            predicted,
            [name for name in ranking if predicted[name] <= limit or name == known.get(key)],
            known=known,
            key=key,
            make=self._make,
            fallback=FALLBACK[pattern.place.kind],
            meet=self._meet,
        )
        self._due = self._choice.countdown()  # one for all arrays
        self._is_counted = False  # the exchange that comes next: this rank could not begin it

    @property
    def method(self) -> str:
        """The one that was chosen, or "auto" while the first race is on."""
        return self._choice.winner or "auto"

    @property
    def pointers(self) -> str:
        """Of the method that is taken now."""
        return self._methods[self._choice.current].pointers

    def bind(self, arrays: Sequence[np.ndarray], stream: int = 0) -> Exchange:
        if self._choice.over:
            return self._counted(self._methods[self._choice.current].bind(arrays, stream))
        names = self._choice.names
        return self._timed({name: self._methods[name].bind(arrays, stream) for name in names})

    def explain(self) -> str:
        """Predicted and measured time of each method, as a table."""
        return self._choice.explain("method")

    def _make(self, name: str) -> None:
        self._methods[name] = self._kinds[name](self._pattern, self._tag)

    def _meet(self) -> None:
        begin_owed()
        if self._meeting:
            try:
                self._meeting()
            except HpckitError as late:
                raise NotBegun(str(late)) from None

    def _timed(self, exchanges: dict[str, Exchange]) -> Exchange:
        """An exchange by the method whose turn it is, its time told to the race."""
        clock = time.perf_counter
        choice = self._choice
        began = spent = 0.0

        def start() -> None:
            nonlocal began, spent
            if not (choice.over or self._is_counted):
                choice.next()
                if choice.over:
                    self._settle()
            began = clock()
            try:
                exchanges[choice.current].start()
            except NotBegun:
                self._count_no_more()
                raise
            self._is_counted = False
            spent = clock() - began

        def wait() -> None:
            began = clock()
            exchanges[choice.current].wait()
            if not choice.over:
                settle()
                choice.tell(spent + clock() - began)

        def settle() -> None:
            exchanges[choice.current].settle()

        def poll() -> bool:
            return exchanges[choice.current].poll()

        return Exchange.of(start, wait, poll, self, settle)

    def _counted(self, exchange: Exchange) -> Exchange:
        """An exchange by the chosen method; a race that is due begins with the next one."""
        due = self._due

        def counted(begin: Callable[[], object]) -> Callable[[], None]:
            def counts() -> None:
                if due():
                    self._reopen()
                try:
                    begin()
                except NotBegun:
                    self._count_no_more()
                    raise

            return counts

        start, call = counted(exchange.start), counted(exchange.call)
        return exchange._replace(start=start, call=call, owner=(self, exchange.owner))

    def _count_no_more(self) -> None:
        """Not the exchange that comes next: it is tried again, and others count it once."""
        if self._choice.over:
            self._due = itertools.chain([False], iter(self._due, None)).__next__
            self._on_choice()  # exchanges are bound to the old countdown
        else:
            self._is_counted = True

    def _settle(self) -> None:
        self._due = self._choice.countdown()
        self._on_choice()

    def _reopen(self) -> None:
        self._choice.again()
        self._on_choice()


def _of_host(pattern: Pattern) -> Model:
    return with_steps(pattern.grid.comm, pattern.grid.node_memory)


def _of_device(pattern: Pattern) -> DeviceModel:
    place: Any = pattern.place
    return with_device_steps(pattern.grid.comm, pattern.grid.node_memory, place)


_MODELS: dict[str, Callable[[Pattern], Any]] = {"host": _of_host, "device": _of_device}


def _predict(pattern: Pattern) -> dict[str, float]:
    """The slowest rank's seconds by each method that all ranks can take (collective)."""
    model = _MODELS[pattern.place.kind](pattern)
    methods = METHODS[pattern.place.kind]
    costs = [method.cost(model, pattern) for method in methods.values()]
    barred = [float(not method.possible(pattern)) for method in methods.values()]
    slowest = np.array([costs, barred])
    pattern.grid.comm.Allreduce(MPI.IN_PLACE, slowest, MPI.MAX)
    return {
        name: seconds
        for name, seconds, never in zip(methods, *slowest.tolist(), strict=True)
        if not never
    }
