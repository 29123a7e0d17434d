"""`Halo`: fill the ghost cells of distributed arrays with the neighbours' cells."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.device_array import DeviceArray
from hpckit.comm.grid import WidthLike, widths
from hpckit.comm.places import common_place, common_stream
from hpckit.comm.places import place as place_of
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.halo.adrift import adrift, begin_owed, halos, land, owed
from hpckit.halo.auto import Auto
from hpckit.halo.bound_exchange import MEETING, TAGS, Exchange, NotBegun
from hpckit.halo.methods import METHODS as KINDS
from hpckit.halo.methods import Method
from hpckit.halo.pattern import Pattern, Width
from hpckit.machine.spin import Meeting, check_deadline

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid

METHODS = ("auto", *KINDS["host"])
_BINDINGS = 8  # sets of arrays that are kept bound: a solver with two buffers alternates
_tags: weakref.WeakKeyDictionary[Grid, Iterator[int]] = weakref.WeakKeyDictionary()


class Halo:
    """Exchange of the ghost cells of one or more fields: planned once, run many times.

    Parameters
    ----------
    grid : the `Grid` that the fields live on.
    width : ghost cells per dimension and side, as in `Grid`; the grid's own by default.
    fields : the arrays, or arrays like them (shape, strides, dtype): this rank's block with its
        ghosts, any order, any dtype, views too, all in host memory or all on this rank's device.
        Staggered fields are one cell longer on the last rank. By default the first `exchange`
        plans.
    corners : fill edges and corners too, for stencils that reach diagonally; else faces only.
    method : "auto" measures and chooses; "datatype", "packed", "neighbor", "shared" or "direct",
        on devices "staged", "peer", "oneshot" or "device" (see docs/halo.md).
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever.

    All methods fill the same bytes. Cells beyond a border that is not periodic are never touched:
    fill them before `start`. Raises `ConfigError` on all ranks where the arguments do not fit the
    grid, each other, or the other ranks'.

    Between `start` and `wait` the arrays, and all that the exchange uses, live on even if nobody
    else holds them or the Halo. After an error, such as a missed deadline, `wait` goes on with the
    exchange.

    On a device an exchange is work of a stream, as a kernel is: it begins after all that was
    enqueued there before, and what is enqueued after `exchange` or `wait` finds the ghosts filled.
    `synchronize` lets the host wait for that. ::

        halo = Halo(grid, fields=[u, v])
        halo.exchange(u, v)  # or, with work in between:
        halo.start(u, v)
        work(u[halo.interior])  # cells that need no ghosts from other ranks
        halo.wait()
        for box in halo.shell:
            work(u[box])  # the rest of the owned cells
    """

    def __init__(
        self,
        grid: Grid,
        width: WidthLike | None = None,
        fields: Sequence[np.ndarray] | None = None,
        corners: bool = False,
        method: str = "auto",
        deadline: float | None = None,
    ) -> None:
        with together(grid.comm):
            self.width: Width = grid.width if width is None else widths(width, grid.ndim)
            _check_options(corners, method, deadline)
            arrays = None if fields is None else _as_list(fields)
        number = None if arrays is None else len(arrays)
        self._deadline = None if deadline is None else float(deadline)
        given = {
            "width": self.width,
            "corners": bool(corners),
            "method": method,
            "deadline": self._deadline,
        }
        same(grid.comm, "the options of a Halo", given | {"number of fields": number})
        self.grid = grid
        self.corners = bool(corners)
        self._method = method
        self._exchanger: Method | Auto | None = None
        self._bindings: dict[tuple, tuple[Exchange, list]] = {}
        self._settle: Callable[[], object] | None = None  # of the method in use
        # What was begun, and the arrays that it uses.
        self._flight: tuple[Exchange, tuple[np.ndarray, ...]] | None = None
        halos.add(self)
        land()
        if arrays is not None:
            self._plan_for(arrays)

    @property
    def method(self) -> str:
        """How fields are exchanged; with "auto", what was chosen, once it was."""
        return getattr(self._exchanger, "method", self._method)

    def exchange(self, *fields: Any, stream: Any = None) -> None:
        """Fill the ghost cells of these fields (collective among neighbours).

        stream : of the device, as an integer or an object of CuPy, torch, Numba or cuda.core; by
            default the one that the arrays name, else the device's default stream
        """
        # By identity: a solver passes the same arrays each step.
        known = self._bindings.get(tuple(map(id, fields)))
        exchange = known[0] if known and stream is None else self._bind(fields, stream)
        if self._flight:
            raise HpckitError(
                "exchange() between start() and wait() of the same Halo: call wait() first, or "
                "make two"
            )
        if adrift or owed:
            begin_owed()
            land()
        try:
            exchange.call()
        except NotBegun:
            raise
        except BaseException:
            self._flight = exchange, fields
            raise

    def start(self, *fields: Any, stream: Any = None) -> None:
        """Begin to fill the ghosts; until `wait`, only read, and owned cells only.

        stream : as for `exchange`
        """
        known = self._bindings.get(tuple(map(id, fields)))
        exchange = known[0] if known and stream is None else self._bind(fields, stream)
        if self._flight:
            raise HpckitError(
                "start() twice without wait(): call wait() first, or make one Halo for each "
                "exchange"
            )
        if adrift:
            land()
        self._flight = exchange, fields
        try:
            exchange.start()
        except NotBegun:
            self._flight = None
            raise

    def wait(self) -> None:
        """Finish what `start` began: afterwards the ghost cells are filled."""
        if not self._flight:
            raise HpckitError("wait() without start()")
        if owed:
            begin_owed()
        self._flight[0].wait()
        self._flight = None

    def synchronize(self) -> None:
        """The host waits until the ghosts are filled; without a device they are after `wait`."""
        if self._settle:
            self._settle()

    def progress(self) -> None:
        """Do what can be done without blocking of what `start` began; `wait` does the rest."""
        if self._flight:
            self._flight[0].poll()

    def abandon(self) -> None:
        """Leave what `start` began to itself: nobody will wait for it."""
        if self._flight:
            adrift.append(self._flight)
            self._flight = None

    def __del__(self) -> None:
        if getattr(self, "_flight", None):
            # Nothing here calls MPI: the garbage collector may be inside of such a call.
            self.abandon()

    @property
    def interior(self) -> tuple[slice, ...]:
        """Owned cells that lie farther than the width from cells that other ranks fill."""
        return tuple(slice(a, b) for a, b in self._interior())

    @property
    def shell(self) -> list[tuple[slice, ...]]:
        """The other owned cells, as disjoint boxes: with `interior` they are all of them."""
        boxes = []
        core = self._interior()
        owned = zip(self.width, self.grid.owned_shape(), strict=True)
        rest = [(lo, lo + n) for (lo, _), n in owned]
        for d, (a, b) in enumerate(core):
            for cut in ((rest[d][0], a), (b, rest[d][1])):
                box = [*rest[:d], cut, *rest[d + 1 :]]
                if all(start < stop for start, stop in box):
                    boxes.append(tuple(slice(*span) for span in box))
            rest[d] = (a, b)
        return boxes

    def explain(self) -> str:
        """What is exchanged, how, and why: predicted and measured times if it was chosen."""
        if self._exchanger is None:
            return f"halo of width {self.width}, method {self._method}: not planned yet"
        pattern = self._pattern
        sent = sum(pattern.nbytes(partner.sends) for partner in pattern.partners)
        lines = [
            f"halo of width {', '.join(f'{lo}+{hi}' for lo, hi in self.width)}, "
            f"{len(pattern.layouts)} field(s),"
            f" {'faces, edges and corners' if self.corners else 'faces'}: {sent:,} bytes from rank "
            f"{self.grid.rank}"
            f" to {len(pattern.partners)} neighbour(s)",
            f"method {self.method}: MPI gets {self._exchanger.pointers} pointers",
        ]
        if isinstance(self._exchanger, Auto):
            lines.append(self._exchanger.explain())
        return "\n".join(lines)

    def _interior(self) -> list[tuple[int, int]]:
        spans = []
        for d, ((lo, hi), n) in enumerate(zip(self.width, self.grid.owned_shape(), strict=True)):
            low, high = (self._is_other(d, side) for side in (-1, 1))
            a = min(lo + lo * low, lo + n)
            spans.append((a, max(a, lo + n - hi * high)))
        return spans

    def _is_other(self, d: int, side: int) -> bool:
        """Whether another rank lies on this side: our own ghosts are ready when `start` returns."""
        offset = [0] * self.grid.ndim
        offset[d] = side
        return self.grid.neighbor(offset) not in (MPI.PROC_NULL, self.grid.rank)

    def _plan_for(self, fields: tuple[Any, ...]) -> Method | Auto:
        begin_owed()
        tag = next(_tags.setdefault(self.grid, itertools.count(0, TAGS))) % (_highest_tag() - TAGS)
        if self._deadline is not None:
            doing = "the planning of a halo exchange"
            Meeting(self.grid.comm, tag + MEETING, self._deadline, doing)()
        place = common_place(self.grid.comm, self.grid.node_comm, fields)
        with together(self.grid.comm):
            arrays = place.views(fields)
        self._pattern = Pattern(self.grid, self.width, arrays, self.corners, self._deadline, place)
        methods = KINDS[place.kind]
        if self._method not in ("auto", *methods):
            raise ConfigError(
                f"halo method {self._method!r} is not for fields in {place.title}: choose one of "
                f"auto, {', '.join(methods)}"
            )
        if self._method == "direct":
            what = "whether all fields of a halo of method 'direct' are in shared memory"
            same(self.grid.comm, what, self._pattern.in_node_memory)
        if self._method == "auto":
            self._exchanger = Auto(self._pattern, tag, on_choice=_forget_all(self))
        else:
            self._exchanger = methods[self._method](self._pattern, tag)
        return self._exchanger

    def _bind(self, fields: tuple[Any, ...], stream: Any) -> Exchange:
        """The exchange of arrays that were not exchanged before, or not lately."""
        exchanger = self._exchanger or self._plan_for(fields)
        here, place = place_of(fields), self._pattern.place
        if here is not place:
            raise ConfigError(
                f"this halo was planned for fields in {place.title}, but these are in "
                f"{here.title}: make another Halo for them"
            )
        on = common_stream(place, fields, stream)
        arrays = place.views(fields)
        ids = tuple(map(id, fields))
        # Views on a device are new objects each time: they are found by where they are.
        key = ids if all(map(_is_numpy, fields)) else (on, *map(_layout, arrays))
        known = self._bindings.get(key)
        if not known:
            self._pattern.check(arrays)
            known = exchanger.bind(arrays, on), []
            self._keep(key, known)
            self._settle = known[0].settle
        if stream is None and all(map(_is_lasting, fields)):
            deaths = [weakref.ref(field, _forget(self, ids)) for field in fields]
            self._keep(ids, (known[0], deaths))
        return known[0]

    def _keep(self, key: tuple, known: tuple[Exchange, list]) -> None:
        self._bindings.pop(key, None)
        while len(self._bindings) >= _BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        self._bindings[key] = known


def _is_numpy(field: object) -> bool:
    return isinstance(field, np.ndarray)


def _is_lasting(field: object) -> bool:
    """Whether it cannot come to be elsewhere while it lives."""
    return isinstance(field, np.ndarray | DeviceArray)


def _layout(array: np.ndarray) -> tuple:
    """Where it is, and what else its moves depend on."""
    return native.address(array), array.shape, array.strides, array.dtype.str


def _forget(halo: Halo, key: tuple) -> Callable[[object], None]:
    """What to do when one of these arrays dies: its identity may be another array's next."""
    # Not the halo itself, which would live until the garbage collector finds the circle.
    me = weakref.ref(halo)

    def forget(_: object) -> None:
        if (halo := me()) is not None:
            halo._bindings.pop(key, None)

    return forget


def _forget_all(halo: Halo) -> Callable[[], None]:
    """What to do when another method is taken from now on."""
    me = weakref.ref(halo)

    def forget() -> None:
        if (halo := me()) is not None:
            halo._bindings.clear()

    return forget


def _check_options(corners: object, method: object, deadline: object) -> None:
    if not isinstance(corners, bool | np.bool_):
        raise ConfigError(f"corners={corners!r} must be True or False")
    if not isinstance(method, str) or method not in (*METHODS, *KINDS["device"]):
        raise ConfigError(
            f"no halo method {method!r}: choose one of {', '.join(METHODS)}, or on a device "
            f"{', '.join(KINDS['device'])}"
        )
    check_deadline(deadline)


def _as_list(fields: object) -> tuple:
    if hasattr(fields, "shape") or not isinstance(fields, Iterable):
        raise ConfigError(
            f"fields is {type(fields).__name__}: pass a list of arrays, such as fields=[u]"
        )
    return tuple(fields)


def _highest_tag() -> int:
    return MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767  # the least that MPI promises
