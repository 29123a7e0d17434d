"""`Allreduce`: everything is checked, allocated and chosen once; then each call only moves and
reduces.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.collectives.arguments import (
    check_group,
    check_numbers,
    check_operation,
    check_result,
    is_whole,
    numbers,
    operation,
    watched,
)
from hpckit.collectives.channel import Channel, empty
from hpckit.collectives.compress import compressed
from hpckit.collectives.engine import Way, in_time, while_it_lives
from hpckit.collectives.lossy import Lossy
from hpckit.collectives.reproducible import reproduced
from hpckit.collectives.select import choose, in_windows
from hpckit.collectives.watch import recorder
from hpckit.collectives.ways import WAYS, bind, possible
from hpckit.comm.pack import Packer
from hpckit.comm.partition import starts
from hpckit.comm.strided import from_array
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.machine.choice import Choice
from hpckit.machine.overlap import identical
from hpckit.machine.spin import check_deadline

_KEPT = 16  # plans of `allreduce`


class Allreduce:
    """Reduces an array over all ranks, to the same bits on all of them (its methods are
    collective).

    array : any numeric dtype and shape, contiguous or not; one that `empty` made needs no copies on
        its node
    out : where the result goes, same shape and dtype; None, or the array itself: in place. It may
        not overlap the array
    op : any `MPI.Op`, also the user's own; where it does not commute, operands are taken in rank
        order. MPI's follow one rule for NaN and zeros in all algorithms, see
        `hpckit.collectives.reduction`. Free it only after the plan's last call
    algorithm : "auto" chooses by measurements among native, ring, star, oneshot, twoshot,
        recursive_doubling, rabenseifner, tree, hierarchical, shared
    chunks : parts that travel on their own: `ready(i)` sends part i while the producer computes the
        next
    compress : "fp16", "bf16", "int8", "topk:FRACTION" or "powersgd:RANK": sums of float32 or
        float64 travel in fewer bytes, by an exchange of its own; see `hpckit.collectives.compress`
    reproducible : sums have the same bits for any order of the ranks; see
        `hpckit.collectives.reproducible`
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever
    group : numbers, neighbours in the flattened array, that an operation of the user takes
        together: nothing is ever cut between them

    ::

        plan = Allreduce(comm, gradient)
        plan()  # or plan.start(), plan.poll() now and then, plan.wait()

    Raises `ConfigError` on all ranks for what cannot be reduced, and where ranks differ in anything
    that is said here. The memory of a plan that is dropped between `start` and `wait` lives until
    nothing is written there any more.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        array: np.ndarray,
        *,
        out: np.ndarray | None = None,
        op: MPI.Op = MPI.SUM,
        algorithm: str = "auto",
        chunks: int = 1,
        compress: str | None = None,
        reproducible: bool = False,
        deadline: float | None = None,
        group: int = 1,
    ) -> None:
        target = array if out is None else out
        with together(comm):
            _check(array, op, algorithm, chunks, group)
            check_result(array, target)
            if chunks > 1 and _order(group, array, target) == "strided":
                raise ConfigError(
                    "chunks need an array that is contiguous in memory: copy it, or use chunks=1"
                )
            check_deadline(deadline)
            special = (
                compressed(compress, array, op, algorithm, chunks) if compress is not None else None
            )
            self._special = reproduced(array, op, algorithm, compress) if reproducible else special
        array, target, chunks = (
            np.asarray(array),
            np.asarray(target),
            int(chunks),
        )  # of a subclass only the numbers
        order, in_place = _order(group, array, target), identical(array, target)
        what = target.shape, target.dtype.str, order, in_place
        given = *what, operation(op), str(algorithm), chunks, compress, bool(reproducible), group
        name = "shape, dtype, order in memory, place of the result, operation and options of an allreduce"
        same(comm, name, ("allreduce", *given, deadline, watched(comm)))
        self._source = _Flat(array, order)
        self._target = self._source if in_place else _Flat(target, order)
        self._channel, self._op, self._deadline = Channel.of(comm), op, deadline
        self._group, self._recorded = group, recorder(comm, target, op)
        edges = [group * start for start in starts(target.size // group, chunks)]
        self.chunks = tuple(slice(*edges[i : i + 2]) for i in range(chunks))
        self._idle, self._began = set(range(chunks)), 0.0
        free = algorithm == "auto" and self._special is None
        self._choice = self._choose(given) if free else None
        named = "reproducible" if reproducible else compress or algorithm
        self._bound: dict[str, list[Way]] = {}
        self._settle(named if self._choice is None else self._choice.way)

    @property
    def algorithm(self) -> str:
        """The one in use; "auto" while the first race is on."""
        return self._name if self._choice is None else self._choice.winner or "auto"

    def explain(self) -> str:
        """Why this algorithm: the links' model, and the predicted and measured time of each."""
        if self._choice is not None:
            return f"{self._channel.links}\n{self._choice.explain('algorithm')}"
        lossy = isinstance(self._bound[self._name][0], Lossy)
        vain = lossy and self._channel.one_node
        return (
            f"{self.algorithm}, as asked "
            f"for{': on one node it costs more than it saves' if vain else ''}"
        )

    def error_bound(self) -> float:
        """The most by which compression may have made an element of the sum of all results so far
        wrong (collective).

        After the first call that is the error of its result; see `hpckit.collectives.lossy`.
        """
        return max(
            (way.error_bound() for way in self._bound[self._name] if isinstance(way, Lossy)),
            default=0.0,
        )

    def ready(self, chunk: int) -> None:
        """Send elements `chunks[chunk]` of the flattened array, which are computed."""
        if chunk not in self._idle:
            raise HpckitError(
                f"chunk {chunk} is sent already, or is none of the {len(self._ways)}: wait() ends "
                "a call"
            )
        if len(self._idle) == len(self._ways):
            if self._choice and self._choice.next():
                self._settle(self._choice.way)
            self._began = time.perf_counter()
            self._source.pack()
            self._call = self._go_on
        self._idle.remove(chunk)
        self._ways[chunk].start()

    def start(self) -> None:
        """Send all that is not sent yet."""
        if not self._idle:
            raise HpckitError(
                "start() twice without wait(): call wait() first, or make a plan for each"
            )
        self._send()

    def _send(self) -> None:
        for chunk in sorted(self._idle):
            self.ready(chunk)

    def poll(self) -> bool:
        """Let messages travel on, without blocking; whether all that was sent is complete."""
        complete = True
        for chunk, way in enumerate(self._ways):
            complete &= chunk in self._idle or way.poll()
        return complete

    def wait(self) -> None:
        """Send what is not sent yet, and complete the call."""
        self._send()
        if len(self._ways) == 1:
            self._ways[0].wait()
        else:
            self._poll_to_the_end()
        self._target.unpack()
        self._idle.update(range(len(self._ways)))
        self._call = self._whole
        if self._choice and self._choice.watching:
            self._choice.tell(time.perf_counter() - self._began)

    def __call__(self) -> None:
        """The whole allreduce."""
        self._call()

    def _go_on(self) -> None:
        """The rest of an allreduce of which some chunks are sent."""
        if not self._idle:
            raise HpckitError(
                "a call between start() and wait() of the same plan: call wait() first, or make two"
            )
        self.wait()

    def _timed(self, choice: Choice) -> None:
        """The only chunk, at once, as long as the choice wants to hear what that takes."""
        if choice.next():
            self._settle(choice.way)
        began = time.perf_counter()
        self._ways[0]()
        choice.tell(time.perf_counter() - began)

    def _poll_to_the_end(self) -> None:
        """All chunks progress together: none waits for the rounds of the one before."""
        if not in_time(self.poll, self._deadline or float("inf")):
            for way in self._ways:
                way.wait()  # who is late is known there

    def _choose(self, key: tuple) -> Choice:
        windows = in_windows(self._channel, self._source.values, self._target.values)
        allowed = possible(self._channel, self._op)
        return choose(self._channel, self._target.values.nbytes, (*key, windows), allowed)

    def _bind(self, name: str) -> list[Way]:
        source, target = self._source.values, self._target.values
        way = self._special or partial(bind, name, group=self._group)
        ways = [
            way(self._channel, source[part], target[part], self._op, self._deadline)
            for part in self.chunks
        ]
        return [while_it_lives(self._op, each) for each in ways]

    def _settle(self, name: str) -> None:
        """Take this algorithm from now on; only while there is a race the others are there too."""
        names = [name] if self._choice is None or self._choice.over else self._choice.names
        self._bound = {name: self._bound.get(name) or self._bind(name) for name in names}
        self._name, self._ways = name, self._recorded(self._bound[name])
        if len(self._ways) > 1 or not (self._source.is_view and self._target.is_view):
            self._whole = self.wait
        elif self._choice and self._choice.watching:
            self._whole = partial(self._timed, self._choice)
        else:
            self._whole = self._unwatched(
                self._ways[0].__call__, self._choice.rest if self._choice else None
            )
        self._call = self._whole

    def _unwatched(self, call: Callable[[], None], times: int | None) -> Callable[[], object]:
        """`call` with nothing around it, until it is time for another race; for ever if `times` is
        None.
        """
        if times is None:
            return call
        calls = itertools.starmap(call, itertools.repeat((), times))
        race = itertools.starmap(_race_again, itertools.repeat((weakref.ref(self),)))
        return itertools.chain(
            calls, race
        ).__next__  # counts in C: these calls may take no longer than 2 us


def allreduce(
    comm: MPI.Intracomm,
    array: np.ndarray,
    *,
    op: MPI.Op = MPI.SUM,
    algorithm: str = "auto",
    group: int = 1,
) -> np.ndarray:
    """The reduction of all ranks' arrays, as a new array (collective).

    The plan and its buffer, in the node's shared memory, are kept for the next call with this
    shape, dtype and operation. Where speed matters make an `Allreduce`, which spares the two
    copies.
    """
    plans = Channel.of(comm).plans
    key = buffer = plan = None
    try:
        array = numbers(array)
        # An operation of the user lives as long as its plan, so that no other has its identity
        # meanwhile.
        which = op.py2f() if op.is_predefined else id(op)
        key = array.shape, array.dtype, which, algorithm, group, getattr(comm, "watch", None)
        buffer, plan = plans.pop(key, (None, None))
    except (ConfigError, AttributeError, TypeError, ValueError):
        pass  # what is wrong is said below, to all ranks
    if plan is None or buffer is None:
        with together(comm):
            array = numbers(array)
            _check(array, op, algorithm, 1, group)
        same(comm, "shape and dtype of an allreduce", ("allreduce", array.shape, array.dtype.str))
        buffer = _buffer(comm, array)
        plan = Allreduce(comm, buffer, op=op, algorithm=algorithm, group=group)
    np.copyto(buffer, array)
    plan()
    plans[key] = (
        buffer,
        plan,
    )  # the last of them, so that the first is the one longest unused; and none that failed
    if len(plans) > _KEPT:
        del plans[next(iter(plans))]
    return buffer.copy()


def _buffer(comm: MPI.Intracomm, array: np.ndarray) -> np.ndarray:
    """Like the array; in the node's shared memory where there is enough of it (collective)."""
    if Channel.of(comm).shares_memory:
        with contextlib.suppress(HpckitError):  # on all ranks
            return empty(comm, array.shape, array.dtype)
    return np.empty(array.shape, array.dtype)


def _race_again(plan: Callable[[], Allreduce | None]) -> None:
    if (me := plan()) is not None and me._choice is not None:
        me._choice.again()
        me._settle(me._choice.way)
        me()


class _Flat:
    """The elements of an array as `values`, (n,) contiguous: a view of it where that can be, else a
    buffer.
    """

    def __init__(self, array: np.ndarray, order: str) -> None:
        self.pack = self.unpack = _nothing
        self.is_view = order != "strided"
        if self.is_view:
            self.values = (array.T if order == "F" else array).reshape(-1)
            return
        self.values, packer = np.empty(array.size, array.dtype), Packer(from_array(array))
        self.pack = lambda: packer.pack(array, out=self.values)
        self.unpack = lambda: packer.unpack(self.values, array)


def _nothing() -> None:
    pass


def _order(group: int, *arrays: np.ndarray) -> str:
    """In which order of their elements all of the arrays are contiguous; groups are neighbours in
    C's.
    """
    if all(array.flags.c_contiguous for array in arrays):
        return "C"
    return "F" if group == 1 and all(array.flags.f_contiguous for array in arrays) else "strided"


def _check(array: Any, op: Any, algorithm: Any, chunks: Any, group: Any) -> None:
    check_numbers(array)
    if not isinstance(algorithm, str) or algorithm not in ("auto", *WAYS):
        raise ConfigError(f"algorithm {algorithm!r} must be one of auto, {', '.join(WAYS)}")
    if not is_whole(chunks) or chunks < 1:
        raise ConfigError(f"chunks={chunks!r} must be a whole number above 0")
    check_operation(op, array.dtype)
    check_group(group, array.size)
