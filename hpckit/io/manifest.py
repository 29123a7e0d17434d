"""The manifest of a checkpoint: what it holds and where, as JSON with a checksum of its own."""

from __future__ import annotations

import ast
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, HpckitError
from hpckit.io.box import Extra

_FORMAT = "hpckit checkpoint 1"
_DEEPEST = 100
HEAD = f'{{"format": "{_FORMAT}"'.encode()  # how each manifest begins

Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Field:
    """A saved field: `descr` is its dtype as in the header of a .npy file, `extra` see
    `hpckit.io.box.Extra`.
    """

    name: str
    descr: str
    extra: Extra

    @property
    def dtype(self) -> np.dtype:
        return np.lib.format.descr_to_dtype(ast.literal_eval(self.descr))


@dataclass(frozen=True)
class Part:
    """One file: the cells `start` to `stop` of all fields one after the other, its size in bytes
    and its CRC-32.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    size: Count
    crc32: Count


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds, and where."""

    step: int
    time: float
    extra: dict[str, Any]
    shape: tuple[int, ...]
    fields: list[Field]
    parts: list[Part]

    def to_json(self) -> bytes:
        content = json_text(asdict(self)).encode()
        return HEAD + b', "crc32": %d,\n"checkpoint": %b}\n' % (zlib.crc32(content), content)

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises `HpckitError` unless the text is what `to_json` wrote, and describes boxes that
        fill the grid.
        """
        try:
            outer = json.loads(text)
            inner = outer["checkpoint"]
            if outer["format"] != _FORMAT or outer["crc32"] != zlib.crc32(
                json_text(inner).encode()
            ):
                raise ValueError(f"it is not an undamaged {_FORMAT!r}")
            manifest = msgspec.convert(inner, cls)
            manifest.check_fields()
            manifest.check_boxes()
        except Exception as error:  # whatever a damaged file may lead to
            raise HpckitError(f"manifest: {type(error).__name__}: {error}") from None
        return manifest

    def check_fields(self) -> None:
        """Raise `ValueError` unless time and fields can be what a run has saved."""
        if not math.isfinite(self.time):
            raise ValueError(f"its time is {self.time}")
        if (
            not self.shape
            or min(self.shape) < 1
            or len({field.name for field in self.fields}) < len(self.fields)
        ):
            raise ValueError(f"no grid has shape {self.shape}, or two fields have one name")
        for field in self.fields:
            if field.dtype.hasobject or not field.dtype.itemsize:
                raise ValueError(f"field {field.name!r} of {field.dtype} has no numbers")
            if len(field.extra) != len(self.shape) or not set(field.extra) <= {0, 1}:
                raise ValueError(
                    f"field {field.name!r} is staggered {field.extra} on a grid of shape "
                    f"{self.shape}"
                )

    def check_boxes(self) -> None:
        """Raise `ValueError` unless the boxes fill the grid and have the sizes of their files."""
        cells = 0
        for part in self.parts:
            corners = zip(part.start, part.stop, self.shape, strict=True)
            if not all(0 <= a < b <= n for a, b, n in corners):
                raise ValueError(f"box {part.start} to {part.stop} lies outside of {self.shape}")
            size = sum(
                math.prod(b - a for a, b in zip(*self.box(part, f), strict=True)) * f.dtype.itemsize
                for f in self.fields
            )
            if part.size != size:
                raise ValueError(
                    f"size {part.size} of box {part.start} to {part.stop}, which needs {size}"
                )
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

    def check(
        self, grid: Grid, fields: Mapping[str, np.ndarray], staggered: Mapping[str, Extra]
    ) -> None:
        """Raise `ConfigError` unless the checkpoint holds all `fields`, on this grid."""
        if self.shape != grid.shape:
            raise ConfigError(
                f"the checkpoint holds a grid of shape {self.shape}, but this run's has shape "
                f"{grid.shape}"
            )
        saved = {field.name: field for field in self.fields}
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
    """JSON would turn other keys into text without a word, and what is nested too deep cannot be
    read again.
    """
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
