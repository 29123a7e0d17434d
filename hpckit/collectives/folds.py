"""Reductions on a device: which kernel reduces what, and its launches; no numba here.

The kernels are in `hpckit.collectives.device_kernels`. Speed on a GPU: not yet measured.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpckit.collectives.reduction import name_of
from hpckit.comm.device import Device, Kernel
from hpckit.errors import ConfigError

MODULE = "hpckit.collectives.device_kernels"
ELEMENTS = 512
"""that a block reduces: two for each of its threads"""

# Numbers of 4 and 8 bytes, and truth of bool. Others are reduced by the host.
_NUMBERS = ("i4", "i8", "f4", "f8")
_EXTREMES = (*_NUMBERS, "u4", "u8")
_TRUTH = ("i1",)
_BITS = ("i4", "i8")
TYPES = {
    "sum": _NUMBERS,
    "prod": _NUMBERS,
    "min": _EXTREMES,
    "max": _EXTREMES,
    "land": _TRUTH,
    "lor": _TRUTH,
    "lxor": _TRUTH,
    "band": _BITS,
    "bor": _BITS,
    "bxor": _BITS,
}
"""of the elements that the kernels of each operation take"""


def fold_kernel(op: MPI.Op, dtype: np.dtype) -> tuple[Kernel, int]:
    """The kernel that reduces such arrays, and the bytes of what it takes as an element.

    Raises `ConfigError` where there is none.
    """
    name, kind, size = (name_of(op) or "").lower(), dtype.kind, dtype.itemsize
    if kind == "b" or (kind == "u" and name not in ("min", "max")):
        kind = "i"  # the same bits
    elif kind == "c" and name == "sum":
        kind, size = "f", size // 2
    if f"{kind}{size}" not in TYPES.get(name, ()):
        what = f"MPI.{name.upper()} of {dtype}" if name else "operations of the user"
        raise ConfigError(
            f"devices have no kernel for {what}: use algorithm='auto', or one of the host's"
        )
    return Kernel(MODULE, f"{name}_{kind}{size}"), size


class Folds:
    """Launches that reduce arrays on a device.

    rows : (n, arrays) int64, addresses of the arrays that are reduced together, in their order
    stream : on which the device gets these, for which the host waits
    """

    def __init__(
        self, device: Device, op: MPI.Op, dtype: np.dtype, rows: np.ndarray, stream: int
    ) -> None:
        self._device = device
        self._kernel, self._size = fold_kernel(op, dtype)
        self.rows = rows
        self._table = device.allocate(rows.nbytes)
        pinned = device.pinned(rows.nbytes)
        assert pinned.host is not None
        pinned.host[:] = rows.reshape(-1).view(np.uint8)
        device.copy(self._table.address, pinned.address, rows.nbytes, stream)
        device.synchronize(stream)

    def fold(
        self, row: int, into: int, offset: int, nbytes: int, stream: int
    ) -> Callable[[], object]:
        """What enqueues one: `nbytes` of the arrays of a row, from `offset` on; nothing if none.

        into : an address, of the first that is reduced in one of the arrays, or of other memory
        """
        n = nbytes // self._size
        if not n:
            return _nothing
        addresses = self._table.address + row * self.rows.strides[0]
        arguments = into, addresses, self.rows.shape[1], offset, n
        return self._device.prepare(self._kernel, -(-n // ELEMENTS), arguments, stream)


def _nothing() -> None:
    pass
