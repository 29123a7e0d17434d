"""The collectives of MPI: on what the ranks must agree, and how to say what they called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from hpckit.collectives.recording import Signature
from hpckit.errors import by_rank

_OPERATIONS = [
    "SUM",
    "PROD",
    "MIN",
    "MAX",
    "LAND",
    "LOR",
    "LXOR",
    "BAND",
    "BOR",
    "BXOR",
    "MINLOC",
    "MAXLOC",
]
_INSIDE = __file__.rpartition("/watch/")[0]
_OURS = (
    *(f"{_INSIDE}/{room}/" for room in ("collectives", "comm", "lossy", "machine", "watch")),
    f"{_INSIDE}/errors.py",
    contextlib.__file__,
)


class Kind(NamedTuple):
    """How a collective is called.

    counted : the parameter that is of equal length on all ranks
    divided : where that one is IN_PLACE, the other buffer holds the parts of all ranks
    """

    parameters: tuple[str, ...] = ()
    counted: int | None = None
    divided: bool = False


_REDUCTION = Kind(("sendbuf", "recvbuf", "op"), 0)
_OBJECT_REDUCTION = Kind(("sendobj", "op"))
_ROOTED = ("sendbuf", "recvbuf", "root")
_BUFFERS = {
    "Barrier": Kind(),
    "Bcast": Kind(("buf", "root"), 0),
    "Reduce": Kind(("sendbuf", "recvbuf", "op", "root"), 0),
    **dict.fromkeys(("Allreduce", "Scan", "Exscan", "Reduce_scatter_block"), _REDUCTION),
    "Reduce_scatter": Kind(("sendbuf", "recvbuf", "recvcounts", "op"), 0),
    "Gather": Kind(_ROOTED, 0, True),
    "Scatter": Kind(_ROOTED, 1, True),
    **dict.fromkeys(("Gatherv", "Scatterv"), Kind(_ROOTED)),
    "Allgather": Kind(("sendbuf", "recvbuf"), 0, True),
    "Alltoall": Kind(("sendbuf", "recvbuf"), 0),
    **dict.fromkeys(("Allgatherv", "Alltoallv", "Alltoallw"), Kind(("sendbuf", "recvbuf"))),
}
NON_BLOCKING = {f"I{name.lower()}": kind for name, kind in _BUFFERS.items()}
KINDS = {
    **_BUFFERS,
    **NON_BLOCKING,
    "barrier": Kind(),
    "bcast": Kind(("obj", "root")),
    "reduce": Kind(("sendobj", "op", "root")),
    **dict.fromkeys(("allreduce", "scan", "exscan"), _OBJECT_REDUCTION),
    **dict.fromkeys(("gather", "scatter"), Kind(("sendobj", "root"))),
    **dict.fromkeys(("allgather", "alltoall"), Kind(("sendobj",))),
    **dict.fromkeys(("Dup", "Split", "Split_type", "Create"), Kind()),
}
NOTHING: Signature = None, None, None, None


class Call(NamedTuple):
    """A call of a collective, as ranks tell each other; what is None need not agree."""

    kind: str
    length: int | None
    dtype: str | None
    op: str | None
    root: int | None
    at: str

    def __str__(self) -> str:
        size = "" if self.length is None else f"{self.length} {self.dtype}"
        root = "" if self.root is None else f"root {self.root}"
        given = ", ".join(filter(None, [size, self.op, root]))
        return f"{self.kind}({given}) at {self.at}"


def disagreement(calls: Mapping[int, Call]) -> str | None:
    """What differs between these calls, and who called what; None where they go together."""
    for field in ("kind", "root", "op", "dtype", "length"):
        if len({getattr(call, field) for call in calls.values()} - {None}) > 1:
            return f"{field} differs: {by_rank([str(calls[rank]) for rank in sorted(calls)])}"
    return None


def reader(name: str, size: int) -> Callable[[tuple, dict[str, Any]], Signature]:
    """A function that reads the signature off the arguments of the collective `name`."""
    parameters, counted, divided = KINDS[name]
    op, root = (parameters.index(p) if p in parameters else None for p in ("op", "root"))
    defaults = tuple({"op": MPI.SUM, "root": 0}.get(p) for p in parameters)
    in_place, array = MPI.IN_PLACE, np.ndarray

    def read(args: tuple, kwargs: dict[str, Any]) -> Signature:
        if len(args) < len(defaults):
            args += (
                tuple(map(kwargs.get, parameters, defaults))[len(args) :]
                if kwargs
                else defaults[len(args) :]
            )
        length = dtype = None
        if counted is not None:
            buffer, parts = args[counted], 1
            if buffer is in_place:
                buffer, parts = args[1 - counted], size if divided else 1
            length, dtype = (
                (buffer.size // parts, buffer.dtype)
                if type(buffer) is array
                else _elements(buffer, parts)
            )
        return length, dtype, None if op is None else args[op], None if root is None else args[root]

    return read if parameters else lambda args, kwargs: NOTHING


def _elements(buffer: Any, parts: int) -> tuple[int | None, np.dtype | None]:
    """Length and dtype of mpi4py's other forms of a buffer; None where only MPI knows."""
    array, *rest = buffer if isinstance(buffer, list | tuple) else [buffer]
    count = next((x for x in rest if isinstance(x, int | np.integer)), None)
    datatype = next((x for x in rest if isinstance(x, MPI.Datatype)), None)
    if any(isinstance(x, list | tuple | np.ndarray) for x in rest):  # counts and displacements
        return None, None
    try:
        memory = memoryview(array)
        dtype = np.dtype(datatype.tocode() if datatype else memory.format or "B")
    except (TypeError, ValueError, MPI.Exception):
        return None, None
    return (memory.nbytes // dtype.itemsize if count is None else int(count)) // parts, dtype


def call(kind: str, signature: Signature, at: str) -> Call:
    """What the other ranks are told."""
    count, dtype, op, root = signature
    names = (name for name in _OPERATIONS if op == getattr(MPI, name))
    return Call(
        kind,
        length=count,
        dtype=None if dtype is None else str(dtype),
        op=None if op is None else next(names, "an own operation"),
        root=None if root is None else int(root),
        at=at,
    )


def caller(frame: FrameType) -> FrameType:
    """The innermost frame that is not of the collectives themselves."""
    while frame.f_back and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame


def where(code: CodeType, instruction: int) -> str:
    """`prog.py:12 in step`."""
    line = next((line for start, stop, line in code.co_lines() if start <= instruction < stop), 0)
    return f"{code.co_filename.rpartition('/')[2]}:{line} in {code.co_qualname}"
