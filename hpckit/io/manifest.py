"""The manifest of a checkpoint: what it holds and where, as JSON with a checksum of its own."""

from __future__ import annotations

import ast
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from hpckit.comm.grid import Grid
from hpckit.comm.staggering import Stagger
from hpckit.errors import ConfigError, HpckitError

_FAMILY = "hpckit checkpoint"
_FIELDS_ONLY = f"{_FAMILY} 1"  # on a grid
_ARRAYS = f"{_FAMILY} 2"  # with arrays beside them, or without a grid
_DEEPEST = 100
HEAD = f'{{"format": "{_FAMILY} '.encode()  # how each manifest begins

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Field:
    """A saved field: `descr` is its dtype as in the header of a .npy file, `extra` see
    `hpckit.comm.staggering.Stagger`.
    """

    name: str
    descr: str
    extra: Stagger

    @cached_property
    def dtype(self) -> np.dtype:
        return np.lib.format.descr_to_dtype(ast.literal_eval(self.descr))


@dataclass(frozen=True)
class SavedArray:
    """An array that lives on no grid: `rule` says how the ranks held it, see `hpckit.io.rules`.

    shapes : of what each part has of it; with "same" only that of the first, which has all
    """

    name: str
    descr: str
    rule: Literal["rows", "same", "per rank"]
    shapes: list[tuple[Count, ...]]

    @cached_property
    def dtype(self) -> np.dtype:
        return np.lib.format.descr_to_dtype(ast.literal_eval(self.descr))

    def nbytes(self, number: int) -> int:
        """What the file of that part has of it."""
        shape = self.shapes[number] if number < len(self.shapes) else (0,)
        return math.prod(shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Part:
    """One file: the cells `start` to `stop` of all fields one after the other, then the arrays; its
    size in bytes and its CRC-32.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    size: Count
    crc32: Count


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, and where; `shape` is that of the grid, () where there is none."""

    step: int
    time: float
    extra: dict[str, Any]
    shape: tuple[int, ...]
    fields: list[Field]
    parts: list[Part]
    arrays: list[SavedArray] = field(default_factory=list)

    @property
    def format(self) -> str:
        return _FIELDS_ONLY if self.shape and not self.arrays else _ARRAYS

    def to_json(self) -> bytes:
        said = asdict(self)
        if not self.arrays:
            del said["arrays"]
        content = json_text(said).encode()
        head = b'{"format": "%b", "crc32": %d,\n' % (self.format.encode(), zlib.crc32(content))
        return head + b'"checkpoint": %b}\n' % content

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises `HpckitError` unless `to_json` wrote it, and its boxes fill the grid."""
        try:
            outer = json.loads(text)
            inner = outer["checkpoint"]
            if outer["crc32"] != zlib.crc32(json_text(inner).encode()):
                raise ValueError(f"it is not an undamaged {_FAMILY!r}")
            manifest = msgspec.convert(inner, cls)
            if outer["format"] != manifest.format:
                raise ValueError(f"it is not an undamaged {manifest.format!r}")
            manifest.check_fields()
            manifest.check_arrays()
            manifest.check_boxes()
        except Exception as error:  # whatever a damaged file may lead to
            raise HpckitError(f"manifest: {type(error).__name__}: {error}") from None
        return manifest

    def check_fields(self) -> None:
        """Raise `ValueError` unless time and fields can be what a run has saved."""
        if not math.isfinite(self.time):
            raise ValueError(f"its time is {self.time}")
        if min(self.shape, default=1) < 1:
            raise ValueError(f"no grid has shape {self.shape}")
        if self.fields and not self.shape:
            raise ValueError("it has fields, but no grid")
        records = [*self.fields, *self.arrays]
        if len({record.name for record in records}) < len(records):
            raise ValueError("two fields or arrays have one name")
        for record in records:
            if record.dtype.hasobject or not record.dtype.itemsize:
                raise ValueError(f"{record.name!r} of {record.dtype} has no numbers")
        for each in self.fields:
            if len(each.extra) != len(self.shape) or not set(each.extra) <= {0, 1}:
                raise ValueError(
                    f"field {each.name!r} is staggered {each.extra} on a grid of {self.shape}"
                )

    def check_arrays(self) -> None:
        """Raise `ValueError` unless the parts of each array fit together."""
        for array in self.arrays:
            if len(array.shapes) != (1 if array.rule == "same" else len(self.parts)):
                raise ValueError(f"array {array.name!r} has {len(array.shapes)} parts")
            if array.rule == "rows" and len({shape[1:] for shape in array.shapes}) > 1:
                raise ValueError(f"the rows of array {array.name!r} differ: {array.shapes}")
            if array.rule == "rows" and () in array.shapes:
                raise ValueError(f"array {array.name!r} has no rows")

    def check_boxes(self) -> None:
        """Raise `ValueError` unless the boxes fill the grid and files have the sizes of theirs."""
        for number, part in enumerate(self.parts):
            if len(part.start) != len(self.shape) or len(part.stop) != len(self.shape):
                raise ValueError(f"box {part.start} to {part.stop} is none of {self.shape}")
            size = self.offset(number)
            if part.size != size:
                raise ValueError(
                    f"size {part.size} of box {part.start} to {part.stop}, which needs {size}"
                )
        if not self.parts:
            raise ValueError("it has no parts")
        if self.shape:
            self._check_cover()

    def _check_cover(self) -> None:
        """Each cell must be in one box: the boxes have as many cells as the grid, none twice."""
        cells = 0
        for part in self.parts:
            corners = zip(part.start, part.stop, self.shape, strict=True)
            if not all(0 <= a < b <= n for a, b, n in corners):
                raise ValueError(f"box {part.start} to {part.stop} lies outside of {self.shape}")
            cells += math.prod(b - a for a, b in zip(part.start, part.stop, strict=True))
        if cells != math.prod(self.shape):
            raise ValueError(f"its boxes hold {cells} of {math.prod(self.shape)} cells")
        low, high = (
            np.array([getattr(part, end) for part in self.parts], np.int64)
            for end in ("start", "stop")
        )
        for i in range(1, len(low)):
            if ((low[:i] < high[i]) & (low[i] < high[:i])).all(axis=1).any():
                raise ValueError(
                    f"box {self.parts[i].start} to {self.parts[i].stop} lies upon another"
                )

    def box(self, part: Part, field: Field) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The values of `field` in `part`: the last box in a staggered dimension has one more."""
        ends = zip(part.stop, self.shape, field.extra, strict=True)
        return part.start, tuple(b + (more if b == n else 0) for b, n, more in ends)

    def offset(self, number: int, record: Field | SavedArray | None = None) -> int:
        """Where a record begins in the file of a part; without one, where the file ends."""
        part, at = self.parts[number], 0
        for each in self.fields:
            if each is record:
                return at
            box = zip(*self.box(part, each), strict=True)
            at += math.prod(b - a for a, b in box) * each.dtype.itemsize
        for each in self.arrays:
            if each is record:
                return at
            at += each.nbytes(number)
        return at

    def check(
        self, grid: Grid, fields: Mapping[str, np.ndarray], staggered: Mapping[str, Stagger]
    ) -> None:
        """Raise `ConfigError` unless the checkpoint holds all `fields`, on this grid."""
        if self.shape != grid.shape:
            raise ConfigError(
                f"the checkpoint holds a grid of shape {self.shape}, but this run's has shape "
                f"{grid.shape}"
            )
        saved = {each.name: each for each in self.fields}
        for name, array in fields.items():
            if name not in saved:
                raise ConfigError(f"the checkpoint has no field {name!r}, only {', '.join(saved)}")
            its = saved[name]
            if its.dtype != array.dtype or its.extra != staggered[name]:
                raise ConfigError(
                    f"field {name!r} is {its.dtype}, staggered {its.extra}, in the checkpoint,"
                    f" but {array.dtype}, staggered {staggered[name]}, in this run"
                )


def describe(dtype: np.dtype) -> str:
    return repr(np.lib.format.dtype_to_descr(dtype))


def json_text(content: Any) -> str:
    try:
        _check_keys(content)
        return json.dumps(content, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"a checkpoint's step, time and extra must be what JSON can hold: {error}"
        ) from None


def _check_keys(content: Any, depth: int = 0) -> None:
    """Refuse what JSON would change, keys that are no text, or not read again, too deep nests."""
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text")
            _check_keys(value, depth + 1)
    elif isinstance(content, list | tuple):
        for value in content:
            _check_keys(value, depth + 1)
