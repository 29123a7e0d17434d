"""What a run of `hpckit.apps.allreduce` is told: its case file's keys, with defaults and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hpckit.keys import note
from hpckit.names import ALGORITHMS

if TYPE_CHECKING:
    Algorithm = str
else:
    Algorithm = Literal[(*(name for name in ALGORITHMS if name != "native"), "auto")]
Bytes = Annotated[int, msgspec.Meta(ge=8, multiple_of=8)]


class Config(msgspec.Struct):
    """What an allreduce of float64 arrays costs by each algorithm, and which one hpckit chooses."""

    sizes: Annotated[tuple[Bytes, ...], note("bytes of each rank's array", min_length=1)] = (
        8,
        1024,
        65536,
        1048576,
    )
    algorithms: Annotated[
        tuple[Algorithm, ...], note("beside MPI's own; none: all that make sense here")
    ] = ()
    arrays: Annotated[
        tuple[Literal["numpy", "window"], ...],
        note(
            "where they lie: in a rank's own memory, or in memory that the ranks of a node share",
            min_length=1,
        ),
    ] = ("numpy", "window")
    seconds: Annotated[float, note("to measure each size", gt=0)] = 1.0
    buffers: Annotated[
        int, note("bytes per rank that one algorithm may take; else it is left out", ge=0)
    ] = 1 << 30
    save: Annotated[bool, note("measure the links afresh and keep them, for every later run")] = (
        False
    )
    output: Annotated[str, note("folder for results and the picture")] = "results/allreduce"
    pictures: Annotated[bool, note("draw the results")] = True
