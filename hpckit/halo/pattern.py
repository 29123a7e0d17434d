"""What a halo exchange moves: for every neighbour, the boxes of every field to and from it.

One list and one loop serve every dimension. For an offset o in {-1, 0, 1}^d the neighbour at o gets
the owned cells next to it and fills our ghost cells on that side; a rank that is our neighbour at
several offsets (a periodic dimension of two ranks, say) gets all of them in one message. Sender and
receiver walk the same order: the sender's offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.arguments import refuse_masked
from hpckit.comm.device import HOST, Device, Host
from hpckit.comm.pack import Move, dense_strides, simplify
from hpckit.comm.staggering import staggering
from hpckit.errors import ConfigError, same, together
from hpckit.machine.lifetime import finishing
from hpckit.machine.overlap import overlap, overlaps_itself

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid

Width = tuple[tuple[int, int], ...]
_UNMASKED = "is a masked array, whose mask would not be exchanged: pass field.filled(…)"
ALIGN = 64  # bytes: every partner's packed data starts on its own cache line


class Box(NamedTuple):
    """A box of cells of one field's local array: `start[d] <= i < start[d] + shape[d]`."""

    field: int
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Partner:
    """All that goes to and comes from one rank, in the order of the packed bytes."""

    rank: int
    sends: tuple[Box, ...]
    receives: tuple[Box, ...]


class Sizes(NamedTuple):
    """What one partner moves, as the model of the machine sees it.

    near : whether its rank shares this node's memory
    sends, receives : (bytes, bytes of a contiguous row) of each box
    """

    near: bool
    sends: list[tuple[int, int]]
    receives: list[tuple[int, int]]

    @property
    def nbytes(self) -> int:
        """Bytes to send."""
        return sum(nbytes for nbytes, _ in self.sends)

    @property
    def received(self) -> int:
        """Bytes to receive."""
        return sum(nbytes for nbytes, _ in self.receives)


class Layout(NamedTuple):
    """What one field's local array is like, ghosts included, and how its boxes are packed."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype
    owned: tuple[int, ...]
    order: tuple[int, ...]  # dimensions, outermost first, in packed boxes; the same on all ranks
    staggered: tuple[int, ...]  # dimensions in which the last rank owns one more

    def offset(self, box: Box) -> int:
        """Bytes from the first element of the array to the first of the box."""
        return _offset(box.start, self.strides)

    def walk(self, box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Counts and strides of a box, in packed order."""
        return tuple(box.shape[d] for d in self.order), tuple(self.strides[d] for d in self.order)


class Pattern:
    """The partners of one rank for such fields, checked against all ranks' (collective).

    Attributes
    ----------
    partners : one per neighbouring rank, without this one, by rank
    own : the partner of this rank to itself (periodic dimensions of one rank), or one without boxes
    place : where the fields are, `HOST` or a device
    in_node_memory : whether all fields are shared arrays of the grid, on this rank
    deadline : seconds that the methods may wait for other ranks
    """

    def __init__(
        self,
        grid: Grid,
        width: Width,
        fields: Sequence[np.ndarray],
        corners: bool,
        deadline: float | None = None,
        place: Host | Device = HOST,
    ) -> None:
        self.grid = grid
        self.place = place
        self.width = width
        self.corners = corners
        self.deadline = deadline
        self.layouts = _agree_on_layouts(grid, width, fields, corners)
        self.in_node_memory = all(grid.shared_peers(field) is not None for field in fields)
        ends: dict[int, tuple[list, list]] = {}
        offsets = [
            o
            for o in product((-1, 0, 1), repeat=grid.ndim)
            if any(o) and (corners or sum(map(abs, o)) == 1)
        ]
        for offset in offsets:
            if (rank := grid.neighbor(offset)) != MPI.PROC_NULL:
                ends.setdefault(rank, ([], []))[0].append(offset)
        for offset in reversed(
            offsets
        ):  # the neighbour sends by its own offsets: the opposite of ours
            if (rank := grid.neighbor(offset)) != MPI.PROC_NULL:
                ends[rank][1].append(offset)
        partners = {
            rank: Partner(
                rank,
                tuple(b for o in sends for b in self._boxes(o, self._send_range)),
                tuple(b for o in receives for b in self._boxes(o, self._receive_range)),
            )
            for rank, (sends, receives) in sorted(ends.items())
        }
        self.own = partners.pop(grid.rank, Partner(grid.rank, (), ()))
        self.partners = [
            partner for partner in partners.values() if partner.sends or partner.receives
        ]

    def _boxes(self, offset: tuple[int, ...], ranges) -> list[Box]:
        boxes = []
        for field, layout in enumerate(self.layouts):
            spans = [
                ranges(o, n, *w) for o, n, w in zip(offset, layout.owned, self.width, strict=True)
            ]
            box = Box(field, tuple(a for a, _ in spans), tuple(b - a for a, b in spans))
            if all(box.shape):
                boxes.append(box)
        return boxes

    @staticmethod
    def _send_range(offset: int, n: int, low: int, high: int) -> tuple[int, int]:
        """Owned cells for the neighbour at this offset: its far ghosts, of maybe another width."""
        return {-1: (low, low + high), 0: (low, low + n), 1: (n, low + n)}[offset]

    @staticmethod
    def _receive_range(offset: int, n: int, low: int, high: int) -> tuple[int, int]:
        return {-1: (0, low), 0: (low, low + n), 1: (low + n, low + n + high)}[offset]

    def nbytes(self, boxes: Sequence[Box]) -> int:
        """Packed size of some boxes, in bytes."""
        return sum(int(np.prod(b.shape)) * self.layouts[b.field].dtype.itemsize for b in boxes)

    @cached_property
    def sizes(self) -> list[Sizes]:
        """Of each partner."""
        near = set(self.grid.node_memory.ranks)
        return [
            Sizes(partner.rank in near, self._pieces(partner.sends), self._pieces(partner.receives))
            for partner in self.partners
        ]

    def _pieces(self, boxes: Sequence[Box]) -> list[tuple[int, int]]:
        zero = [0] * len(self.layouts)
        rows = [simplify(self._packed_move(zero, box, 0)).row for box in boxes]
        return [(self.nbytes([box]), row) for box, row in zip(boxes, rows, strict=True)]

    def signature(self) -> tuple:
        """What two patterns share that the same method is best for; the same on all ranks."""
        return (
            self.width,
            self.corners,
            tuple((lay.staggered, lay.order, str(lay.dtype)) for lay in self.layouts),
        )

    def offsets(self, lists: Sequence[Sequence[Box]]) -> list[int]:
        """Where each list of boxes starts in one buffer for all of them, and its size."""
        sizes = [-(-self.nbytes(boxes) // ALIGN) * ALIGN for boxes in lists]
        return [sum(sizes[:i]) for i in range(len(sizes) + 1)]

    def pack_moves(
        self, arrays: Sequence[np.ndarray], boxes: Sequence[Box], packed: int
    ) -> list[Move]:
        """Copies from the fields' boxes to packed bytes at the address `packed`."""
        bases, moves = [native.address(array) for array in arrays], []
        for box in boxes:
            moves.append(self._packed_move(bases, box, packed))
            packed += self.nbytes([box])
        return moves

    def unpack_moves(
        self, arrays: Sequence[np.ndarray], boxes: Sequence[Box], packed: int
    ) -> list[Move]:
        """Copies from packed bytes at the address `packed` to the fields' boxes."""
        return [
            m._replace(
                source=m.target,
                source_strides=m.target_strides,
                target=m.source,
                target_strides=m.source_strides,
            )
            for m in self.pack_moves(arrays, boxes, packed)
        ]

    def _packed_move(self, bases: Sequence[int], box: Box, packed: int) -> Move:
        layout = self.layouts[box.field]
        counts, strides = layout.walk(box)
        row = layout.dtype.itemsize
        source = bases[box.field] + layout.offset(box)
        return Move(counts, row, source, strides, packed, dense_strides(counts, row), box.field)

    def own_moves(self, arrays: Sequence[np.ndarray]) -> list[Move]:
        """Copies within this rank: periodic dimensions of one rank."""
        return self.copy_moves(arrays, self.own.receives, arrays, self.own.sends)

    def copy_moves(
        self,
        arrays: Sequence[np.ndarray],
        boxes: Sequence[Box],
        sources: Sequence[np.ndarray],
        source_boxes: Sequence[Box],
    ) -> list[Move]:
        """Copies straight from boxes of other arrays, also another rank's, to boxes of ours."""
        moves = []
        for box, source_box in zip(boxes, source_boxes, strict=True):
            layout, array, source = self.layouts[box.field], arrays[box.field], sources[box.field]
            counts, strides = layout.walk(box)
            walked = tuple(source.strides[d] for d in layout.order)
            start = native.address(source) + _offset(source_box.start, source.strides)
            target = native.address(array) + _offset(box.start, array.strides)
            moves.append(
                Move(counts, layout.dtype.itemsize, start, walked, target, strides, box.field)
            )
        return moves

    def swap(self, partners: Sequence[Partner], values: Sequence[object], tag: int) -> list:
        """Give each partner one value, and get one from each (collective among neighbours)."""
        comm = self.grid.comm
        with finishing(comm):
            pairs = zip(partners, values, strict=True)
            requests = [comm.isend(value, partner.rank, tag) for partner, value in pairs]
            received = [comm.recv(source=partner.rank, tag=tag) for partner in partners]
            MPI.Request.Waitall(requests)
        return received

    def check(self, arrays: Sequence[np.ndarray]) -> None:
        """Raise where these arrays are not of the layouts that were planned, or overlap."""
        if len(arrays) != len(self.layouts):
            raise ConfigError(
                f"this halo was planned for {len(self.layouts)} fields, got {len(arrays)}"
            )
        for i, (array, layout) in enumerate(zip(arrays, self.layouts, strict=True)):
            if (array.shape, array.strides, array.dtype) != layout[:3]:
                raise ConfigError(
                    f"field {i} has shape {array.shape}, strides {array.strides} and dtype "
                    f"{array.dtype}, but this halo"
                    f" was planned for {layout.shape}, {layout.strides} and {layout.dtype}: make "
                    "another Halo for it"
                )
        _check_memory(arrays)


def _offset(index: Sequence[int], strides: Sequence[int]) -> int:
    return sum(i * s for i, s in zip(index, strides, strict=True))


def _agree_on_layouts(
    grid: Grid, width: Width, fields: Sequence[np.ndarray], corners: bool
) -> list[Layout]:
    """The fields' layouts, checked on every rank and against every other rank's."""
    with together(grid.comm):
        _check_width(grid, width)
        for i, field in enumerate(fields):
            _check_kind(i, field)
        _check_memory(fields)
    same(
        grid.comm,
        "width, corners and dtypes of a halo",
        (width, corners, [_describe(f.dtype) for f in fields]),
    )
    stagger = staggering(grid, {f"field {i}": f for i, f in enumerate(fields)}, width)
    mine = [tuple(np.argsort([-abs(s) for s in f.strides], kind="stable").tolist()) for f in fields]
    everyone = grid.comm.allgather(mine)
    layouts, dimensions = [], tuple(range(grid.ndim))
    for i, (field, extra) in enumerate(zip(fields, stagger.values(), strict=True)):
        order = mine[i] if all(orders[i] == mine[i] for orders in everyone) else dimensions
        owned = grid.owned_shape(extra)
        longer = tuple(d for d in dimensions if extra[d])
        layouts.append(Layout(field.shape, field.strides, field.dtype, owned, order, longer))
    return layouts


def _describe(dtype: np.dtype) -> str:
    return str(dtype.descr if dtype.names else dtype.str)


def _check_width(grid: Grid, width: Width) -> None:
    for d, (low, high) in enumerate(width):
        thinnest = grid.shape[d] // grid.process_shape[d]
        if max(low, high) > thinnest and (grid.process_shape[d] > 1 or grid.periodic[d]):
            raise ConfigError(
                f"halo of width {max(low, high)} in dimension {d} is wider than the thinnest block "
                f"of {thinnest} cells "
                f"({grid.shape[d]} cells over {grid.process_shape[d]} ranks): use a width of at "
                f"most {thinnest}, or at "
                f"most {max(1, grid.shape[d] // max(low, high))} ranks in that dimension"
            )


def _check_kind(i: int, field: object) -> None:
    refuse_masked(f"field {i}", field, _UNMASKED)
    if not isinstance(field, np.ndarray):
        raise ConfigError(
            f"field {i} is a {type(field).__name__}: pass a NumPy array that holds this rank's "
            "block with its ghosts"
        )
    if field.dtype.hasobject:
        raise ConfigError(
            f"field {i} has dtype {field.dtype}: Python objects cannot be exchanged, use a numeric "
            "or structured dtype"
        )


def _check_memory(arrays: Sequence[np.ndarray]) -> None:
    """Every element of every field is a place of its own in memory that we may write."""
    for i, array in enumerate(arrays):
        if not array.flags.writeable:
            raise ConfigError(
                f"field {i} is read-only: an exchange writes its ghosts, pass a writable array"
            )
        _check_elements(i, array)
        for j in range(i):
            if overlap(arrays[j], array):
                raise ConfigError(
                    f"fields {j} and {i} overlap in memory, or are too entangled to tell: pass "
                    "each array once, and"
                    " views that are apart, or copies"
                )


def _check_elements(i: int, array: np.ndarray) -> None:
    """An element has bytes, no other element has them, and nor does anything else."""
    if not array.itemsize:
        raise ConfigError(
            f"field {i} has dtype {array.dtype}, of no bytes: there is nothing to exchange"
        )
    if overlaps_itself(array):
        raise ConfigError(
            f"field {i} overlaps itself: shape {array.shape} with strides {array.strides}; pass a "
            "copy"
        )
    if _is_part_of_records(array):
        raise ConfigError(
            f"field {i} has members {array.dtype.names} of larger records, whose other members "
            "would be exchanged too:"
            " pass each member as a field of its own, such as field['name'] (no copy is made)"
        )


def _is_part_of_records(array: np.ndarray) -> bool:
    """Whether the elements have holes that are not holes of an array that this is a view of."""
    if array.dtype.names is None or _packed_size(array.dtype) == array.itemsize:
        return False
    base = array.base
    while isinstance(base, np.ndarray):
        if base.dtype.names and base.dtype != array.dtype:
            return True
        base = base.base
    return False


def _packed_size(dtype: np.dtype) -> int:
    """Bytes of a dtype without the holes."""
    if dtype.subdtype:
        return _packed_size(dtype.subdtype[0]) * int(np.prod(dtype.shape))
    return sum(_packed_size(dtype[name]) for name in dtype.names) if dtype.names else dtype.itemsize
