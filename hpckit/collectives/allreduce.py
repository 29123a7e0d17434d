"""`Allreduce`: checked, allocated and chosen once; then each call only moves and reduces."""

from __future__ import annotations

import itertools
import pkgutil
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import NAMED, bind, possible
from hpckit.collectives.algorithms.algorithm import Algorithm
from hpckit.collectives.algorithms.reproducible import Reproducible
from hpckit.collectives.arguments import (
    check_group,
    check_numbers,
    check_operation,
    check_result,
    is_whole,
    operation,
)
from hpckit.collectives.buffers import BUFFERS
from hpckit.collectives.channel import Channel
from hpckit.collectives.persistent import Operands, Persistent, in_time, while_it_lives
from hpckit.collectives.recording import recording, watch_of
from hpckit.collectives.select import choose, in_windows
from hpckit.collectives.staging import ARRAYS
from hpckit.comm.partition import starts
from hpckit.comm.places import place as place_of
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.machine.choice import Choice
from hpckit.machine.overlap import identical
from hpckit.machine.spin import check_deadline

_KEPT = 16  # plans of `allreduce`
_COMPRESSED = "hpckit.lossy:compressed"  # by its name, for that room stands on this one


class Allreduce:
    """Reduces an array over all ranks, to the same bits on all of them; its methods are collective.

    array : any numeric dtype and shape, contiguous or not, of NumPy or on a device (whatever has
        `__cuda_array_interface__` or DLPack); one that `empty` made needs no copies on its node
    out : where the result goes, same shape, dtype and place; None, or the array itself: in place.
        It may not overlap the array
    op : any `MPI.Op`, also the user's own; where it does not commute, operands are taken in rank
        order. MPI's follow one rule for NaN and zeros in all algorithms, see
        `hpckit.collectives.reduction`. Free it only after the plan's last call
    algorithm : "auto" chooses by measurements among native, ring, star, oneshot, twoshot,
        recursive_doubling, rabenseifner, tree, hierarchical, shared, and on devices also among
        peer and pipelined. `Reproducible()`, and what `hpckit.lossy` makes, are passed as they are:
        they give another result
    compress : "fp16", "bf16", "int8", "topk:FRACTION" or "powersgd:RANK", in short for
        `algorithm=hpckit.lossy.compressed(...)`
    reproducible : in short for `algorithm=Reproducible()`
    chunks : parts that travel on their own: `ready(i)` sends part i while the producer computes the
        next
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever
    group : numbers, neighbours in the flattened array, that an operation of the user takes
        together: nothing is ever cut between them
    stream : of a device's arrays, on which they are used; None: the one that the array names. A
        call begins after all that was on it, and its result is there for all that comes after
        `wait`

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
        array: Any,
        *,
        out: Any = None,
        op: MPI.Op = MPI.SUM,
        algorithm: str | Algorithm = "auto",
        compress: str | None = None,
        reproducible: bool = False,
        chunks: int = 1,
        deadline: float | None = None,
        group: int = 1,
        stream: Any = None,
    ) -> None:
        target = array if out is None else out
        with together(comm):
            algorithm = _meant(algorithm, compress, reproducible)
            place = place_of([array, target])
            used_on = ARRAYS[place.kind].stream_of(array, place, stream)
            array, target = place.views([array, target])
            _check(array, op, algorithm, chunks, group, NAMED[place.kind])
            check_result(array, target)
            if chunks > 1 and _order(group, array, target) == "strided":
                raise ConfigError(
                    "chunks need an array that is contiguous in memory: copy it, or use chunks=1"
                )
            check_deadline(deadline)
        # Of a subclass only the numbers.
        array, target, chunks = np.asarray(array), np.asarray(target), int(chunks)
        order = _order(group, array, target)
        in_place = identical(array, target)
        name = str(getattr(algorithm, "name", algorithm))
        what = target.shape, target.dtype.str, order, in_place
        given = *what, operation(op), name, chunks, group, place.name
        same(
            comm,
            "shape, dtype, order in memory, place of the array and the result, operation and "
            "options of an allreduce",
            ("allreduce", *given, deadline, watch_of(comm) is not None),
        )
        self._channel = Channel.of(comm)
        self._arrays = ARRAYS[place.kind](self._channel, array, target, order, place, used_on)
        self._whole = Operands(
            self._channel,
            self._arrays.flat[0],
            self._arrays.flat[1],
            op,
            deadline,
            group,
            columns=_columns(array, order),
            place=place,
            stream=used_on,
        )
        edges = [group * start for start in starts(target.size // group, chunks)]
        self.chunks = tuple(slice(*edges[i : i + 2]) for i in range(chunks))
        self._recorded = recording(comm, "allreduce", target, op)
        self._idle = set(range(chunks))  # the chunks that are not sent
        self._began = 0.0
        self._made: dict[str, list[Persistent]] = {}  # by algorithm: an operation for each chunk
        self._passed = algorithm if isinstance(algorithm, Algorithm) else None
        free = self._passed is None and name == "auto"
        self._choice = self._choose(given) if free else None
        self._settle(name if self._choice is None else self._choice.current)

    @property
    def algorithm(self) -> str:
        """The one in use; "auto" while the first race is on."""
        return self._name if self._choice is None else self._choice.winner or "auto"

    def explain(self) -> str:
        """Why this algorithm: the links' model, and the predicted and measured time of each."""
        if self._choice is not None:
            return f"{self._channel.links}\n{self._choice.explain('algorithm')}"
        remark = self._algorithm(self._name).remark(self._channel)
        return f"{self._name}, as asked for{remark and ': '}{remark}"

    def error_bound(self) -> float:
        """The most by which an element of all results' sum may be wrong (collective).

        After the first call that is the error of its result; see `hpckit.lossy`.
        """
        return self._algorithm(self._name).error_bound(self._made[self._name])

    def memory(self) -> list[np.ndarray]:
        """What the next call's result depends on beside the operands; for checkpoints.

        Of compressions what they have lost, and a basis; nothing of the others. A plan of the same
        kind goes on where this one is once it has the same numbers in its own `memory()`.
        """
        made = self._made[self._name]
        return [array for operation in made for array in getattr(operation, "memory", ())]

    def ready(self, chunk: int) -> None:
        """Send elements `chunks[chunk]` of the flattened array, which are computed."""
        if chunk not in self._idle:
            raise HpckitError(
                f"chunk {chunk} is sent already, or is none of the {len(self._operations)}: wait() "
                "ends a call"
            )
        if len(self._idle) == len(self._operations):
            if self._choice and self._choice.next():
                self._settle(self._choice.current)
            self._began = time.perf_counter()
            self._call = self._go_on
        self._idle.remove(chunk)
        self._operations[chunk].start()

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
        for chunk, each in enumerate(self._operations):
            complete &= chunk in self._idle or each.poll()
        return complete

    def wait(self) -> None:
        """Send what is not sent yet, and complete the call."""
        self._send()
        if len(self._operations) == 1:
            self._operations[0].wait()
        else:
            self._poll_to_the_end()
        self._idle.update(range(len(self._operations)))
        self._call = self._all
        if self._choice and self._choice.watching:
            self._arrays.settle()
            self._choice.tell(time.perf_counter() - self._began)

    def __call__(self) -> None:
        """The whole allreduce."""
        self._call()

    def __del__(self) -> None:
        # Between its stages no message of ours may be under way, but others' are.
        if len(getattr(self, "_idle", ())) < len(getattr(self, "_operations", ())):
            self._channel.never_free()

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
            self._settle(choice.current)
        began = time.perf_counter()
        self._operations[0]()
        self._arrays.settle()
        choice.tell(time.perf_counter() - began)

    def _poll_to_the_end(self) -> None:
        """All chunks progress together: none waits for the rounds of the one before."""
        if not in_time(self.poll, self._whole.deadline or float("inf")):
            for each in self._operations:
                each.wait()  # who is late is known there

    def _choose(self, key: tuple) -> Choice:
        source, target = self._whole.source, self._whole.target
        shared = in_windows(self._channel, source, target)
        kind = self._whole.place.kind
        allowed = possible(self._channel, self._whole.op, target, kind)
        return choose(self._channel, target.nbytes, (*key, shared), allowed, self._make)

    def _algorithm(self, name: str) -> Algorithm:
        return self._passed or NAMED[self._whole.place.kind][name]

    def _make(self, name: str) -> None:
        self._made[name] = self._bind(name)

    def _bind(self, name: str) -> list[Persistent]:
        """The operations of this algorithm, one for each chunk."""
        algorithm = self._algorithm(name)
        whole, operations = self._arrays.operands(self._whole, algorithm.kind), []
        for part in self.chunks:
            operands = replace(whole, source=whole.source[part], target=whole.target[part])
            operations.append(while_it_lives(whole.op, bind(algorithm, operands)))
        return operations

    def _settle(self, name: str) -> None:
        """Take this algorithm from now on; only while there is a race the others are there too."""
        names = [name] if self._choice is None or self._choice.over else self._choice.names
        self._made = {name: self._made.get(name) or self._bind(name) for name in names}
        self._name = name
        kind = self._algorithm(name).kind
        pairs = zip(self._made[name], self.chunks, strict=True)
        self._operations = self._recorded([self._arrays.around(*pair, kind) for pair in pairs])
        if len(self._operations) > 1:
            self._all = self.wait
        elif self._choice and self._choice.watching and len(self._choice.names) > 1:
            self._all = partial(self._timed, self._choice)
        else:
            self._all = self._unwatched(
                self._operations[0].__call__, self._choice.rest if self._choice else None
            )
        self._call = self._all

    def _unwatched(self, call: Callable[[], None], times: int | None) -> Callable[[], object]:
        """`call` with nothing around it, so many times until another race; None: for ever."""
        if times is None:
            return call
        # Counts in C: such calls may take no longer than 2 us. The plan holds this, so weakly.
        calls = itertools.starmap(call, itertools.repeat((), times))
        race = itertools.starmap(_race_again, itertools.repeat((weakref.ref(self),)))
        return itertools.chain(calls, race).__next__


def allreduce(
    comm: MPI.Intracomm,
    array: Any,
    *,
    op: MPI.Op = MPI.SUM,
    algorithm: str = "auto",
    group: int = 1,
    stream: Any = None,
) -> Any:
    """The reduction of all ranks' arrays, as a new array (collective).

    Of arrays on a device it is a `DeviceArray`, which is there for all that comes after on the
    stream. The plan and its buffer, in the node's shared memory or on the device, are kept for the
    next call with this shape, dtype and operation. Where speed matters make an `Allreduce`, which
    spares the two copies. ::

        total = allreduce(comm, np.ones(3))
    """
    plans = Channel.of(comm).plans
    key = kept = None
    view, used_on = np.empty(0), 0
    try:
        place, view, used_on = _read(array, stream)
        # An operation of the user lives as long as its plan, so that no other has its identity
        # meanwhile.
        which = op.py2f() if op.is_predefined else id(op)
        watch = getattr(comm, "watch", None)
        key = view.shape, view.dtype, which, algorithm, group, place.name, watch
        kept = plans.pop(key, None)
    except (ConfigError, AttributeError, TypeError, ValueError):
        pass  # what is wrong is said below, to all ranks
    if kept is None:
        with together(comm):
            place, view, used_on = _read(array, stream)
            _check(view, op, algorithm, 1, group, NAMED[place.kind])
        what = "allreduce", view.shape, view.dtype.str, place.name
        same(comm, "shape, dtype and place of an allreduce", what)
        buffer = BUFFERS[place.kind](comm, view, place)
        kept = buffer, Allreduce(comm, buffer.array, op=op, algorithm=algorithm, group=group)
    buffer, plan = kept
    buffer.put(view, used_on)
    plan()
    # The last of them, so that the first is the one longest unused; and none that failed.
    plans[key] = kept
    if len(plans) > _KEPT:
        del plans[next(iter(plans))]
    return buffer.get(used_on)


def _read(array: Any, stream: Any) -> tuple[Any, np.ndarray, int]:
    """Where an array is, the array as plans walk it, and the stream on which it is used."""
    place = place_of([array])
    used_on = ARRAYS[place.kind].stream_of(array, place, stream)
    return place, BUFFERS[place.kind].view(array, place), used_on


def _race_again(plan: Callable[[], Allreduce | None]) -> None:
    if (me := plan()) is not None and me._choice is not None:
        me._choice.again()
        me._settle(me._choice.current)
        me()


def _order(group: int, *arrays: np.ndarray) -> str:
    """In which order all of the arrays are contiguous; groups are neighbours in C's."""
    if all(array.flags.c_contiguous for array in arrays):
        return "C"
    return "F" if group == 1 and all(array.flags.f_contiguous for array in arrays) else "strided"


def _columns(array: np.ndarray, order: str) -> int:
    """Length of a row of the array, as it lies in memory."""
    return (array.shape or (1,))[0 if order == "F" else -1]


def _meant(algorithm: str | Algorithm, compress: str | None, reproducible: bool) -> str | Algorithm:
    """The algorithm that the short forms stand for."""
    if compress is None and not reproducible:
        return algorithm
    said = "reproducible=True" if reproducible else f"compress={compress!r}"
    if algorithm != "auto":
        raise ConfigError(f"{said} is an algorithm of its own: leave out algorithm={algorithm!r}")
    if not reproducible:
        return pkgutil.resolve_name(_COMPRESSED)(compress)
    if compress is not None:
        raise ConfigError(f"{said} is an algorithm of its own: leave out compress={compress!r}")
    return Reproducible()


def _check(
    array: Any, op: Any, algorithm: Any, chunks: Any, group: Any, names: Mapping[str, Algorithm]
) -> None:
    """names : the algorithms for arrays of this place"""
    check_numbers(array)
    known = names.get(algorithm) if isinstance(algorithm, str) else algorithm
    if algorithm != "auto" and not isinstance(known, Algorithm):
        raise ConfigError(
            f"algorithm {algorithm!r} must be one of auto, {', '.join(names)}, or an "
            "`Algorithm` such as Reproducible()"
        )
    if not is_whole(chunks) or chunks < 1:
        raise ConfigError(f"chunks={chunks!r} must be a whole number above 0")
    check_operation(op, array.dtype)
    check_group(group, array.size)
    if known:
        known.check(array, op, chunks)
