"""How fast is an allreduce here, and by what? `mpirun -n 8 python -m hpckit.apps.allreduce`.

Every algorithm of `hpckit.collectives` takes its turn at every size, MPI's own among them, and
every result is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.apps.allreduce.config import Config
from hpckit.apps.allreduce.estimate import estimate
from hpckit.program.run import run

if TYPE_CHECKING:
    from mpi4py import MPI


def main(comm: MPI.Intracomm, config: Config) -> dict[str, Any]:
    """Compute, write and draw one case; the results by name."""
    from hpckit.apps.allreduce.job import main as compute  # starts MPI, which `--help` must not

    return compute(comm, config)


if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.allreduce", dry_run=estimate)
