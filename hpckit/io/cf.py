"""How stored numbers become values: attributes of netCDF files, by the conventions CF and NUG.

A cell is missing where the number that is stored, before anything is done to it, equals
`_FillValue` or one of `missing_value`, or lies outside of `valid_min`, `valid_max` and
`valid_range`. Else its value is number * `scale_factor` + `add_offset`. `_Unsigned` says that
signed numbers are meant unsigned, because netCDF-3 has no others. Without `_FillValue`, what netCDF
itself fills cells with counts as missing too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpckit.errors import ConfigError

Number = int | float

# What netCDF's libraries put where nobody wrote, by kind and size; bytes have no such number.
_DEFAULT: dict[str, Number] = {"i2": -32767, "i4": -2147483647, "i8": -9223372036854775806}
_DEFAULT |= {"u2": 65535, "u4": 4294967295, "u8": 18446744073709551614}
_DEFAULT |= {"f4": float(np.float32(9.969209968386869e36)), "f8": 9.969209968386869e36}


@dataclass(frozen=True)
class Packing:
    """What an array's attributes say; `stored` is the type its numbers are meant to have."""

    stored: np.dtype
    missing: tuple[Number, ...] = ()
    low: Number | None = None
    high: Number | None = None
    scale: float | None = None
    offset: float | None = None

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return np.dtype(float) if self._scaled else self.stored

    @property
    def _scaled(self) -> bool:
        return self.scale is not None or self.offset is not None

    def unpack(self, numbers: np.ndarray, out: np.ndarray) -> int:
        """Write the values to `out`, NaN where they are missing; returns how many are."""
        numbers = numbers.view(self.stored.newbyteorder(numbers.dtype.byteorder))
        gone = np.zeros(numbers.shape, bool)
        for number in self.missing:
            gone |= numbers == number
        if self.low is not None:
            gone |= numbers < self.low
        if self.high is not None:
            gone |= numbers > self.high
        if not self._scaled:
            out[...] = numbers
        else:
            values = np.multiply(numbers, 1.0 if self.scale is None else self.scale, dtype=float)
            out[...] = np.add(values, self.offset or 0.0, out=values)
        count = int(np.count_nonzero(gone))
        if count and out.dtype.kind not in "fc":
            raise ConfigError(
                f"{count} cells are missing ({self}), but {out.dtype} has no NaN: read as float"
            )
        if count:
            out[gone] = np.nan
        return count

    def __str__(self) -> str:
        """What makes a cell count as missing."""
        said = [f"stored as {number}" for number in self.missing]
        said += [f"below {self.low}"] * (self.low is not None) + [f"above {self.high}"] * (
            self.high is not None
        )
        return " or ".join(said)


def default_fill(dtype: np.dtype) -> Number | None:
    """What netCDF writes where nobody did."""
    return _DEFAULT.get(f"{dtype.kind}{dtype.itemsize}")


def packing(
    where: str, attributes: Mapping[str, Any], dtype: np.dtype, fill: Number | None = None
) -> Packing | None:
    """What the attributes say of an array of this type; None where they say nothing.

    where : what to call the array in errors; fill : what its file was filled with, which counts
        without `_FillValue`

    Raises `ConfigError` for attributes that make no sense.
    """
    if dtype.kind not in "iuf":
        return None
    stored = _meant(where, attributes, dtype)
    given = {
        name: [
            _stored(number, stored) for number in _numbers(where, name, attributes[name], counts)
        ]
        for name, counts in _SIZES.items()
        if name in attributes
    }
    missing = [
        n for name in ("_FillValue", "missing_value") for both in given.get(name, []) for n in both
    ]
    if "_FillValue" not in given and fill is not None:
        missing.append(fill)
    ends = given.get("valid_range", [])
    low = [min(both) for both in ends[:1] + given.get("valid_min", [])]
    high = [max(both) for both in ends[1:] + given.get("valid_max", [])]
    scale, offset = (_factor(where, name, attributes) for name in ("scale_factor", "add_offset"))
    found = Packing(
        stored,
        tuple(dict.fromkeys(n for n in missing if not math.isnan(n))),
        max(low, default=None),
        min(high, default=None),
        scale,
        offset,
    )
    return None if found == Packing(dtype) else found


# How many numbers an attribute has; () stands for any number of them.
_SIZES = {
    "_FillValue": (1,),
    "missing_value": (),
    "valid_min": (1,),
    "valid_max": (1,),
    "valid_range": (2,),
}
ATTRIBUTES = (*_SIZES, "scale_factor", "add_offset", "_Unsigned")


def _meant(where: str, attributes: Mapping[str, Any], dtype: np.dtype) -> np.dtype:
    """The type that `_Unsigned` makes of a stored one."""
    said = attributes.get("_Unsigned")
    if said is None or dtype.kind == "f":
        return dtype
    word = _text(said) if _text(said) is not None else str(bool(np.all(said)))
    if str(word).lower() not in ("true", "false"):
        raise ConfigError(
            f"{where}: its attribute _Unsigned is {word!r}, but must be 'true' or 'false'"
        )
    return np.dtype(
        f"{dtype.byteorder}{'u' if str(word).lower() == 'true' else 'i'}{dtype.itemsize}"
    )


def _stored(number: Any, stored: np.dtype) -> tuple[Number, ...]:
    """A number of an attribute as it would be stored; with another float type, both ways."""
    if stored.kind == "f":
        exact = float(stored.type(number))
        return exact, float(stored.type(str(number)))
    if not math.isfinite(number) or number != int(number):
        return (float(number),)
    whole, bits = int(number), 8 * stored.itemsize
    half, all_ = 1 << (bits - 1), 1 << bits
    if stored.kind == "u" and -half <= whole < 0:  # written as signed, but meant as unsigned
        return (whole + all_,)
    if stored.kind == "i" and half <= whole < all_:
        return (whole - all_,)
    return (whole,)


def _factor(where: str, name: str, attributes: Mapping[str, Any]) -> float | None:
    if name not in attributes:
        return None
    value = float(_numbers(where, name, attributes[name], (1,))[0])
    if not math.isfinite(value) or (value == 0 and name == "scale_factor"):
        raise ConfigError(f"{where}: its attribute {name} is {value}, which leaves no values")
    return value


def _numbers(where: str, name: str, value: Any, counts: tuple[int, ...]) -> list[Any]:
    """The numbers of an attribute, whichever way it holds them."""
    text = _text(value)
    try:
        if text is not None:
            found = [
                float(word) if set("nN.eE") & set(word) else int(word)
                for word in text.replace(",", " ").split()
            ]
        else:
            array = np.asarray(value)
            found = list(array.ravel()) if array.dtype.kind in "biuf" else []
    except (TypeError, ValueError):
        found = []
    if not found or (counts and len(found) not in counts):
        wanted = " or ".join(map(str, counts)) or "at least 1"
        raise ConfigError(
            f"{where}: its attribute {name} is {value!r}, but must be {wanted} number(s)"
        )
    return found


def _text(value: Any) -> str | None:
    """The text of an attribute that is one, as h5py, SciPy and NumPy give it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    if isinstance(value, bytes):
        return value.decode("latin-1").strip("\0 ")
    return value.strip("\0 ") if isinstance(value, str) else None
