"""What a reduction gives, by one rule for all algorithms and MPI libraries, and what keeps it.

    MIN, MAX          NaN wins, as in numpy.minimum; -0 is less than +0
    SUM, PROD         as in IEEE 754: NaN wins, infinities of both signs and 0 times infinity
                      give NaN, a sum of zeros is -0 where all are; integers wrap around
    PROD, complex     four real products; a factor with a part that is not finite makes both parts
                      NaN, zeros are +0
    LAND, LOR, LXOR   whatever is not 0 is true; the result is 0 or 1
    BAND, BOR, BXOR   bit by bit

Every NaN of a result is the same one, `numpy.nan`, whatever payload and sign came in. So none of
this depends on the order of the operands; only the rounding of floating-point sums and products
does, overflow of partial ones included. MPI's own reductions compare as C does, where NaN is lost
or kept by its place: they are used where they keep the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit import native

KERNELS = "hpckit.collectives.kernels.shared"
_NAMES = ("SUM", "PROD", "MIN", "MAX", "LAND", "LOR", "LXOR", "BAND", "BOR", "BXOR")
_DEFINED = {"b": _NAMES[4:7], "i": _NAMES, "u": _NAMES, "f": _NAMES[:4], "c": _NAMES[:2]}


def defined(dtype: np.dtype) -> tuple[str, ...]:
    """Names of MPI's operations that there are for such numbers."""
    return _DEFINED[dtype.kind]


def name_of(op: MPI.Op) -> str | None:
    """`SUM`, ...; None for an operation of the user, and those that do not reduce numbers."""
    if not op or not op.is_predefined:
        return None
    return next((name for name in _NAMES if op == getattr(MPI, name)), None)


class Reduction:
    """An operation on contiguous arrays of one type.

    group : numbers that an operation of the user wants to see together
    op : what reduces by MPI where there is no kernel: as given, or one of ours that keeps the rule
    type : the datatype with which it is called, of a group
    """

    def __init__(self, op: MPI.Op, dtype: np.dtype, group: int = 1) -> None:
        self._dtype = dtype
        self.name = name_of(op)
        self.op = _ours(self.name) if self.name and dtype.char in "gG" else op
        self.type = datatype(dtype.char, 1 if self.name else group)

    @cached_property
    def kernel(self) -> Any:
        """It reduces arrays in their order (`kernels.shared`); None where there is none."""
        return _kernel(self.name, self._dtype) if self.name else None

    @property
    def through(self) -> MPI.Op:
        """The operation that MPI may use in collectives of its own."""
        return _ours("PROD") if self.name == "PROD" and self._dtype.kind == "c" else self.op

    @property
    def nan_as_integer(self) -> int | None:
        """NaN among the integers by which MPI finds extremes of floats; None if it needs none."""
        if self._dtype.char not in "efd" or self.name not in ("MIN", "MAX"):
            return None
        bits = int(np.array(np.nan, self._dtype).view(f"i{self._dtype.itemsize}"))
        return bits if self.name == "MAX" else ~bits

    def fold(self, left: np.ndarray, right: np.ndarray, into: np.ndarray) -> Callable[[], object]:
        """A call that makes `into`, one of the two, `left op right`; the other is undefined."""
        if self.kernel:
            return _call(self.kernel, into, left, right)
        reduce = partial(self.op.Reduce_local, [left, self.type], [right, self.type])
        return reduce if into is right else lambda: (reduce(), np.copyto(into, right))

    def finish(self, array: np.ndarray) -> Callable[[], object] | None:
        """A call that brings what was not folded here into a result's form; None if it has it."""
        if self.name in ("LAND", "LOR", "LXOR"):
            return _call(_kernel("LOR", self._dtype), array, array, array)
        if self.kernel and self._dtype.kind in "fc":
            real = self._dtype.char.lower()
            clean = getattr(native.load(KERNELS), f"clean_f{np.dtype(real).itemsize}")
            return native.bind(clean, native.address(array), array.view(real).size, keep=array)
        return partial(_forget_payload, array) if self.name and self._dtype.char in "gG" else None


def grouped(array: np.ndarray, group: int) -> np.ndarray:
    """As (n / group,) elements of so many numbers."""
    return array if group == 1 else array.view(np.dtype((np.void, group * array.itemsize)))


@cache
def datatype(code: str, count: int) -> MPI.Datatype:
    """MPI's type of so many numbers, for good."""
    one = MPI.Datatype.fromcode(code)
    return one if count == 1 else one.Create_contiguous(count).Commit()


def _call(kernel: Any, into: np.ndarray, *arrays: np.ndarray) -> Callable[[], object]:
    table = np.array([native.address(array) for array in arrays])
    arguments = native.address(into), native.address(table), len(arrays), 0, into.nbytes
    return native.bind(kernel, *arguments, keep=(into, arrays, table))


def _kernel(name: str, dtype: np.dtype) -> Any:
    """The kernel that reduces such arrays, if there is one."""
    kind, size = dtype.kind, dtype.itemsize
    if name.startswith("B"):
        kind, size = "i", 1
    elif kind == "b" or (kind == "u" and name not in ("MIN", "MAX")):
        kind = "i"  # the same bits
    elif name == "SUM" and kind == "c":
        kind, size = "f", size // 2
    return (
        getattr(native.load(KERNELS), f"{name.lower()}_{kind}{size}", None)
        if dtype.isnative
        else None
    )


# -- in Python, for numbers that have no kernel, and where MPI's own does not keep the rule


@cache
def _ours(name: str) -> MPI.Op:
    """An operation that keeps the rule; made once, for MPI and mpi4py have room for few."""

    def reduce(a: Any, b: Any, datatype: MPI.Datatype) -> None:
        x, y = (np.frombuffer(buffer, datatype.tocode()) for buffer in (a, b))
        kernel = _kernel(name, y.dtype)
        if kernel:
            _call(kernel, y, x, y)()
        else:
            with np.errstate(all="ignore"):
                _IN_NUMPY[name](x, y)
            _forget_payload(y)

    return MPI.Op.Create(reduce, commute=True)


def _product(x: np.ndarray, y: np.ndarray) -> None:
    if y.dtype.kind == "f":
        np.multiply(x, y, out=y)
        return
    finite = np.isfinite(x) & np.isfinite(y)
    np.multiply(x, y, out=y)
    y += 0.0
    y[~finite] = complex(np.nan, np.nan)


def _extreme(ufunc: np.ufunc, wins: bool, x: np.ndarray, y: np.ndarray) -> None:
    """wins : the sign of the zero that does"""
    won = (x == 0) & (y == 0) & ((np.signbit(x) == wins) | (np.signbit(y) == wins))
    ufunc(x, y, out=y)
    y[won] = -0.0 if wins else 0.0


def _forget_payload(array: np.ndarray) -> None:
    parts = array.view("g")
    parts[np.isnan(parts)] = np.nan


_IN_NUMPY: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "SUM": lambda x, y: np.add(x, y, out=y),
    "PROD": _product,
    "MIN": partial(_extreme, np.minimum, True),
    "MAX": partial(_extreme, np.maximum, False),
}
