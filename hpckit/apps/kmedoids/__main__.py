"""k-medoids on any number of ranks: `mpirun -n 4 python -m hpckit.apps.kmedoids quick`.

Points or a matrix of distances are divided among the ranks, which find the same medoids, bit for
bit, whatever their number. Without arguments: clouds of generated points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.kmedoids.config import Config
from hpckit.apps.kmedoids.estimate import estimate
from hpckit.program.run import run

if TYPE_CHECKING:
    from mpi4py import MPI


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Compute, write and draw one case; the results by name."""
    from hpckit.apps.kmedoids.job import main as compute  # starts MPI, which `--help` must not

    return compute(comm, config)


if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.kmedoids", dry_run=estimate)
