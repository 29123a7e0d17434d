"""How fast is an allreduce here, and by what? `mpirun -n 8 python -m hpckit.apps.allreduce
[case.toml]`.

Every algorithm of `hpckit.collectives` takes its turn at every size, MPI's own among them, and
every result is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from hpckit.keys import note

if TYPE_CHECKING:
    from mpi4py import MPI


Algorithm = Literal[
    "ring",
    "star",
    "oneshot",
    "twoshot",
    "recursive_doubling",
    "rabenseifner",
    "tree",
    "hierarchical",
    "shared",
    "auto",
]
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


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Measure, write and draw one case; the results by name."""
    from hpckit.apps.allreduce.job import Job

    job = Job(comm, config)
    job.sweep()
    return job.report() | job.write()


def dry_run(config: Config, ranks: int) -> str:
    """What a run on so many ranks would be like."""
    from hpckit.apps.allreduce.estimate import estimate

    return estimate(config, ranks)
