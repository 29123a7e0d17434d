"""`Allreduce`: everything is checked, allocated and chosen once; then each call only moves and reduces."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.collectives.channel import Channel, empty
from hpckit.collectives.compress import compressed
from hpckit.collectives.engine import Way, in_time
from hpckit.collectives.lossy import Lossy
from hpckit.collectives.reproducible import reproduced
from hpckit.collectives.select import Choice, in_windows
from hpckit.collectives.watch import recorder
from hpckit.collectives.ways import WAYS, bind, possible
from hpckit.comm.pack_host import Packer
from hpckit.comm.partition import starts
from hpckit.comm.strided import from_array
from hpckit.errors import ConfigError, HpckitError, same, together

_KEPT = 16  # plans of `allreduce`


class Allreduce:
    """Reduces an array over all ranks, to the same bits on all of them (its methods are collective).

    array : any numeric dtype and shape, contiguous or not; one that `empty` made needs no copies on its node
    out : where the result goes, same shape and dtype; None: in place
    op : any `MPI.Op`, also the user's own; where it does not commute, operands are taken in rank order
    algorithm : "auto" chooses by measurements among native, ring, star, oneshot, twoshot, recursive_doubling,
        rabenseifner, tree, hierarchical, shared
    chunks : parts that travel on their own: `ready(i)` sends part i while the producer computes the next
    compress : "fp16", "bf16", "int8", "topk:FRACTION" or "powersgd:RANK": sums of float32 or float64 travel in fewer
        bytes, by an exchange of its own; see `hpckit.collectives.compress`
    reproducible : sums have the same bits for any order of the ranks; see `hpckit.collectives.reproducible`
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever

    ::

        plan = Allreduce(comm, gradient)
        plan()  # or plan.start(), plan.poll() now and then, plan.wait()

    Raises `ConfigError` on all ranks for what cannot be reduced.
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
    ) -> None:
        target = array if out is None else out
        with together(comm):
            _check(array, target, op, algorithm, chunks)
            special = compressed(compress, array, op, algorithm, chunks) if compress is not None else None
            self._special = reproduced(array, op, algorithm, compress) if reproducible else special
        order, shared_op = _order(array, target), op.py2f() if op.is_predefined else "of the user"
        given = target.size, target.dtype.str, order, shared_op, algorithm, chunks, compress, reproducible
        what = "size, dtype, order in memory, operation, algorithm and options of an allreduce"
        same(comm, what, given)
        self._source = _Flat(array, order)
        self._target = self._source if out is None else _Flat(target, order)
        self._channel, self._op, self._deadline = Channel.of(comm), op, deadline
        self._recorded = recorder(comm, target, op)
        edges = starts(target.size, chunks)
        self.chunks = tuple(slice(*edges[i : i + 2]) for i in range(chunks))
        self._idle, self._began = set(range(chunks)), 0.0
        free = algorithm == "auto" and self._special is None
        self._choice = self._choose((*given, out is None)) if free else None
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
            return self._choice.explain()
        lossy = isinstance(self._bound[self._name][0], Lossy)
        vain = lossy and self._channel.one_node
        return f"{self.algorithm}, as asked for{': on one node it costs more than it saves' if vain else ''}"

    def error_bound(self) -> float:
        """The most by which compression may have made an element of the sum of all results so far wrong (collective).

        After the first call that is the error of its result; see `hpckit.collectives.lossy`.
        """
        return max((way.error_bound() for way in self._bound[self._name] if isinstance(way, Lossy)), default=0.0)

    def ready(self, chunk: int) -> None:
        """Send elements `chunks[chunk]` of the flattened array, which are computed."""
        if chunk not in self._idle:
            raise HpckitError(f"chunk {chunk} is sent already, or is none of the {len(self._ways)}: wait() ends a call")
        if len(self._idle) == len(self._ways):
            if self._choice and self._choice.next():
                self._settle(self._choice.way)
            self._began = time.perf_counter()
            self._source.pack()
        self._idle.remove(chunk)
        self._ways[chunk].start()

    def start(self) -> None:
        """Send all that is not sent yet."""
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
        self.start()
        if len(self._ways) == 1:
            self._ways[0].wait()
        else:
            self._poll_to_the_end()
        self._target.unpack()
        self._idle.update(range(len(self._ways)))
        if self._choice and self._choice.watching:
            self._choice.tell(time.perf_counter() - self._began)

    def __call__(self) -> None:
        """The whole allreduce."""
        self._call()

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
        return Choice(self._channel, self._target.values.nbytes, (*key, windows), allowed)

    def _bind(self, name: str) -> list[Way]:
        source, target = self._source.values, self._target.values
        way = self._special or partial(bind, name)
        return [way(self._channel, source[part], target[part], self._op, self._deadline) for part in self.chunks]

    def _settle(self, name: str) -> None:
        """Take this algorithm from now on; only while there is a race the others are there too."""
        names = [name] if self._choice is None or self._choice.over else self._choice.names
        self._bound = {name: self._bound.get(name) or self._bind(name) for name in names}
        self._name, self._ways = name, self._recorded(self._bound[name])
        if len(self._ways) > 1 or not (self._source.is_view and self._target.is_view):
            self._call = self.wait
        elif self._choice and self._choice.watching:
            self._call = partial(self._timed, self._choice)
        else:
            self._call = self._unwatched(self._ways[0].__call__, self._choice.rest if self._choice else None)

    def _unwatched(self, call: Callable[[], None], times: int | None) -> Callable[[], object]:
        """`call` with nothing around it, until it is time for another race; for ever if `times` is None."""
        if times is None:
            return call
        calls = itertools.starmap(call, itertools.repeat((), times))
        race = itertools.starmap(_race_again, itertools.repeat((weakref.ref(self),)))
        return itertools.chain(calls, race).__next__  # counts in C: these calls may take no longer than 2 us


def allreduce(comm: MPI.Intracomm, array: np.ndarray, *, op: MPI.Op = MPI.SUM, algorithm: str = "auto") -> np.ndarray:
    """The reduction of all ranks' arrays, as a new array (collective).

    The plan and its buffer, in the node's shared memory, are kept for the next call with this shape, dtype and
    operation. Where speed matters make an `Allreduce`, which spares the two copies.
    """
    plans = Channel.of(comm).plans
    array = np.asarray(array)
    key = array.shape, array.dtype, op.py2f(), algorithm, getattr(comm, "watch", None)
    buffer, plan = plans.pop(key, (None, None))
    if plan is None:
        with together(comm):
            _check_numbers(array)
        buffer = empty(comm, array.shape, array.dtype)
        plan = Allreduce(comm, buffer, op=op, algorithm=algorithm)
    plans[key] = buffer, plan  # the last of them, so that the first is the one longest unused
    if len(plans) > _KEPT:
        del plans[next(iter(plans))]
    np.copyto(buffer, array)
    plan()
    return buffer.copy()


def _race_again(plan: Callable[[], Allreduce | None]) -> None:
    if (me := plan()) is not None and me._choice is not None:
        me._choice.again()
        me._settle(me._choice.way)
        me()


class _Flat:
    """The elements of an array as `values`, (n,) contiguous: a view of it where that can be, else a buffer."""

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


def _order(*arrays: np.ndarray) -> str:
    """In which order of their elements all of the arrays are contiguous."""
    if all(array.flags.c_contiguous for array in arrays):
        return "C"
    return "F" if all(array.flags.f_contiguous for array in arrays) else "strided"


def check_array(array: Any) -> None:
    """`ConfigError` unless it is a contiguous vector of numbers, in native byte order, that can be written."""
    _check_numbers(array)
    if array.ndim != 1 or not array.flags.c_contiguous or not array.flags.writeable:
        raise ConfigError(f"the array must be one-dimensional, contiguous and writable, but has shape {array.shape}")


def check_operation(op: Any, dtype: np.dtype) -> None:
    """`ConfigError` unless `op` is defined for this type: MPI tells."""
    if not isinstance(op, MPI.Op) or op == MPI.OP_NULL:
        raise ConfigError(f"op must be an MPI.Op such as MPI.SUM, got {op!r}")
    if not op.is_predefined:
        return
    one = np.zeros(2, dtype)
    try:
        op.Reduce_local(one[:1], one[1:])
    except MPI.Exception:
        raise ConfigError(f"MPI does not define this operation for {dtype}: use another dtype or operation") from None


def _check_numbers(array: Any) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc" or not array.dtype.isnative:
        found = f"{type(array).__name__} {getattr(array, 'dtype', '')}".strip()
        raise ConfigError(f"collectives take NumPy arrays of numbers in native byte order, got {found}")


def _check(array: Any, target: Any, op: Any, algorithm: Any, chunks: Any) -> None:
    for given in (array, target):
        _check_numbers(given)
    if not target.flags.writeable:
        raise ConfigError("the result's array is read-only: pass a writable one")
    if (array.shape, array.dtype) != (target.shape, target.dtype):
        raise ConfigError(
            f"out is {target.dtype} {target.shape}, it must be like the array: {array.dtype} {array.shape}"
        )
    if algorithm not in ("auto", *WAYS):
        raise ConfigError(f"algorithm {algorithm!r} must be one of auto, {', '.join(WAYS)}")
    if not isinstance(chunks, int) or chunks < 1:
        raise ConfigError(f"chunks={chunks!r} must be a whole number above 0")
    if chunks > 1 and _order(array, target) == "strided":
        raise ConfigError("chunks need an array that is contiguous in memory: copy it, or use chunks=1")
    check_operation(op, array.dtype)
