"""Heat, tsunamis and creeping hills: `mpirun -n 4 python -m hpckit.apps.halo tsunami`.

Each equation runs on blocks of one grid, one block per rank, whose ghost cells are filled by
`hpckit.Halo` while the cells inside are computed. Without arguments: heat in a box, whose distance
from the analytic solution is printed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.halo.config import Config
from hpckit.apps.halo.estimate import estimate
from hpckit.program.run import run

if TYPE_CHECKING:
    from mpi4py import MPI


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Compute, write and draw one case; the results by name."""
    from hpckit.apps.halo.job import main as compute  # starts MPI, which `--help` must not

    return compute(comm, config)


if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.halo", dry_run=estimate)
